// The run player: every view of a run on one slider, from its record (docs/player.md) alone.
//
// Plain JavaScript, no library. Names come from users' data: they enter the page as text nodes only,
// never as markup.

const VERSION = 1;
const INK = "#222222";
const SCORES = { transfer: "Transfer", average: "Average", last: "Last", forgetting: "Forgetting" };
const MEANINGS = {
  transfer: "accuracy on tasks before they are learned",
  average: "accuracy on all tasks, mean over all stages so far",
  last: "accuracy on all tasks at this stage",
  forgetting: "points lost since a task was at its best",
};
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (on...) and children; texts become text nodes. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "text", "line"].includes(name);
  const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat());
  return node;
}

const known = (value) => value !== null && value !== undefined;
const shown = (value, digits = 1) => (known(value) ? value.toFixed(digits) : "–");
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
const domainsOf = (record) => [...record.order, ...record.held_out];
const stageName = (record, stage) => (stage ? `after ${record.order[stage - 1]}` : "zero-shot");
/** The stages before a domain is trained on, and, of a held-out one, all of them. */
const unseenUntil = (record, domain) => {
  const place = record.order.indexOf(domain);
  return place < 0 ? Infinity : place;
};

/** Rows of a table that is stored by columns. */
function rowsOf(table, wanted) {
  const names = Object.keys(table);
  return table[names[0]].flatMap((_, index) => {
    const row = Object.fromEntries(names.map((name) => [name, table[name][index]]));
    return wanted(row) ? [row] : [];
  });
}

function shade(share) {
  return `background: color-mix(in srgb, var(--heat) ${Math.round(75 * share)}%, transparent)`;
}

/** A table of numbers, coloured by `share` in 0 .. 1; cells are [text, share]. */
function heatTable(caption, columns, rows) {
  const head = make("tr", {}, make("td"), columns.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map(([name, cells]) =>
    make("tr", {}, make("th", { scope: "row" }, name), cells.map(([text, share]) =>
      make("td", { style: known(share) ? shade(share) : null }, text))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, body));
}

/** The accuracy matrix, filled up to the stage; a score lights the cells that it averages. */
function matrixView(record, player) {
  const domains = domainsOf(record);
  const cells = [];
  const value = (row, column) => column < record.order.length
    ? record.accuracy[row]?.[column] : record.held_out_accuracy[row]?.[column - record.order.length];
  const tell = (row, column) => {
    const now = value(row, column);
    let text = `${domains[column]} ${stageName(record, row)}: ${shown(now)} %`;
    if (row && known(now)) {
      text += `, ${signed(now - value(0, column))} against zero-shot`;
      if (column < row - 1) text += `, ${signed(now - value(column + 1, column))} since just learned`;
    }
    return text;
  };
  const body = record.order.concat("").map((_, row) => {
    const line = domains.map((_, column) => {
      const say = () => { if (row <= player.state.stage) player.tell(tell(row, column)); };
      const cell = make("td", {
        tabindex: -1, onmouseenter: say, onfocus: say,
        class: [row === column + 1 && "diagonal", column === record.order.length && "apart"].filter(Boolean).join(" "),
        onkeydown: (event) => {
          const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
          if (!step) return;
          event.preventDefault();
          cells.find((c) => c.row === row + step[0] && c.column === column + step[1])?.cell.focus();
        },
      });
      cells.push({ row, column, cell });
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row" }, stageName(record, row)), line);
  });
  cells[0].cell.tabIndex = 0;
  const head = make("tr", {}, make("td"), domains.map((name) => make("th", { scope: "col" }, name)));
  const root = make("table", { class: "matrix" }, make("caption", {}, "Accuracy, percent (framed: just learned)"),
    make("thead", {}, head), make("tbody", {}, body));
  const lit = (score, row, column, stage) => {
    if (!score) return true;
    if (row === 0 || row > stage || column >= record.order.length) return false;
    if (score === "transfer") return column >= row;
    if (score === "last") return row === stage;
    if (score === "forgetting") return column < stage - 1 && row > column;
    return true;
  };
  const update = ({ stage, score, domain }) => {
    for (const { row, column, cell } of cells) {
      const now = row <= stage ? value(row, column) : null;
      cell.textContent = row <= stage ? shown(now) : "";
      cell.style.cssText = known(now) ? shade(now / 100) : "";
      const dim = !lit(score, row, column, stage) || (domain && domains[column] !== domain);
      cell.classList.toggle("dim", Boolean(dim));
      cell.setAttribute("aria-label", row <= stage ? tell(row, column) : "not there yet");
    }
  };
  return { root, update };
}

/** Transfer, Average, Last and Forgetting so far. */
function scoreView(record, player) {
  const parts = Object.entries(SCORES).map(([key, name]) => {
    const number = make("strong");
    const light = (score) => () => player.set({ score });
    const root = make("button", {
      type: "button", class: "score", title: MEANINGS[key], "data-score": key,
      onmouseenter: light(key), onfocus: light(key), onmouseleave: light(null), onblur: light(null),
    }, name, number, make("small", {}, MEANINGS[key]));
    return { key, number, root };
  });
  const update = ({ stage }) => {
    const scores = record.scores[stage];
    for (const { key, number } of parts) number.textContent = shown(scores[key]);
  };
  return { root: make("div", { class: "scores" }, parts.map((part) => part.root)), update };
}

/** Accuracy of what is not learned yet, stage by stage. */
function unseenView(record, player) {
  const [width, height, left, bottom] = [420, 230, 34, 26];
  const last = Math.max(record.order.length, 1);
  const x = (stage) => left + (stage * (width - left - 12)) / last;
  const y = (percent) => 8 + ((100 - percent) * (height - bottom - 8)) / 100;
  const marks = [0, 25, 50, 75, 100].flatMap((percent) => [
    make("line", { class: "rule", x1: left, x2: width - 12, y1: y(percent), y2: y(percent) }),
    make("text", { x: left - 6, y: y(percent) + 4, "text-anchor": "end" }, String(percent))]);
  const ticks = record.order.concat("").map((_, stage) =>
    make("text", { x: x(stage), y: height - 8, "text-anchor": "middle" }, String(stage)));
  const now = make("line", { class: "now", y1: 8, y2: height - bottom });
  const lines = domainsOf(record).map((domain, column) => {
    const all = record.accuracy.map((row, stage) => [stage, [...row, ...(record.held_out_accuracy[stage] ?? [])][column]])
      .filter(([stage, percent]) => known(percent) && stage <= unseenUntil(record, domain));
    const path = make("path", { fill: "none", stroke: player.colour(domain), "stroke-width": 2.5 });
    const end = make("circle", { fill: player.colour(domain), r: 3 });
    const name = make("text", { fill: player.colour(domain), class: "name" }, domain);
    return { domain, all, path, end, name };
  });
  const root = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, marks, ticks, now,
    lines.flatMap(({ path, end, name }) => [path, end, name]));
  const update = ({ stage, domain }) => {
    now.setAttribute("x1", x(stage));
    now.setAttribute("x2", x(stage));
    const said = [];
    for (const line of lines) {
      const reached = line.all.filter(([at]) => at <= stage);
      line.path.setAttribute("d", reached.map(([at, p], i) => `${i ? "L" : "M"}${x(at)} ${y(p)}`).join(" "));
      const dim = domain && domain !== line.domain ? 0.15 : 1;
      const end = reached.at(-1);
      for (const node of [line.path, line.end, line.name]) {
        node.setAttribute("opacity", dim);
        node.setAttribute("visibility", end ? "visible" : "hidden");
      }
      if (!end) continue;
      line.end.setAttribute("cx", x(end[0]));
      line.end.setAttribute("cy", y(end[1]));
      const far = x(end[0]) > width - 90;
      line.name.setAttribute("x", x(end[0]) + (far ? -4 : 4));
      line.name.setAttribute("text-anchor", far ? "end" : "start");
      line.name.setAttribute("y", y(end[1]) - 5);
      if (reached.length > 1) said.push(`${line.domain} ${signed(end[1] - reached[0][1])}`);
    }
    root.setAttribute("aria-label", `Change against zero-shot while not learned: ${said.join(", ") || "none yet"}`);
  };
  return { root, update };
}

/** Drift of the activations from the frozen CLIP's, by block. */
function driftView(record, player) {
  const root = make("div");
  const most = Math.max(...record.drift.relative_norm.filter(known), 1e-9);
  const towers = [...new Set(record.drift.tower)];
  const update = ({ stage, tower }) => {
    const chosen = towers.includes(tower) ? tower : towers[0];
    const choose = towers.map((name) => make("button", {
      type: "button", "aria-pressed": String(name === chosen), onclick: () => player.set({ tower: name }),
    }, `${name} tower`));
    const rows = rowsOf(record.drift, (row) => row.stage === stage && row.tower === chosen);
    const blocks = [...new Set(rows.map((row) => row.block))];
    const lines = domainsOf(record).map((domain) => [domain, blocks.map((block) => {
      const found = rows.find((row) => row.domain === domain && row.block === block)?.relative_norm;
      return [shown(found, 2), known(found) ? found / most : null];
    })]);
    root.replaceChildren(make("p", { class: "choice" }, choose), rows.length
      ? heatTable("Length of the change / length before, after each block", blocks.map(String), lines)
      : make("p", {}, "Nothing has moved yet: this is the frozen CLIP."));
  };
  return { root, update };
}

/** Who is taken for whom, how strongly, and by which experts: whatever the method has. */
function routeView(record) {
  const root = make("div");
  const update = ({ stage, domain }) => {
    const at = (table, wanted = () => true) => rowsOf(table, (row) => row.stage === stage && wanted(row));
    const parts = [];
    if (record.routes) {
      const rows = at(record.routes);
      const routes = [...new Set(rows.map((row) => row.route))];
      parts.push(heatTable("Percent of a domain's images that take a route", routes, domainsOf(record).map((name) =>
        [name, routes.map((route) => {
          const share = rows.find((row) => row.domain === name && row.route === route)?.share ?? 0;
          return [shown(share, 0), share / 100];
        })])));
    }
    if (record.weights) {
      const rows = at(record.weights);
      parts.push(heatTable("Weight of the prompts (a tenth of the images is below low, a tenth above high)",
        ["low", "median", "high"], rows.map((row) =>
          [row.domain, ["low", "median", "high"].map((name) => [shown(row[name], 2), row[name]])])));
    }
    if (record.experts) {
      const name = domain ?? record.order[Math.max(stage - 1, 0)];
      const rows = at(record.experts, (row) => row.domain === name);
      const experts = [...new Set(rows.map((row) => row.expert))].sort((a, b) => a - b);
      parts.push(heatTable(`Percent of choices for ${name}, by block and expert`, experts.map(String),
        [...new Set(rows.map((row) => row.block))].map((block) => [`block ${block}`, experts.map((expert) => {
          const share = rows.find((row) => row.block === block && row.expert === expert)?.share;
          return [known(share) ? shown(100 * share, 0) : "–", share];
        })])));
    }
    root.replaceChildren(...(stage ? parts : [make("p", {}, "Nothing is learned yet: one way for all.")]));
  };
  return { root, update };
}

/** The map of features, moving from stage to stage; a dot tells its image, label and answers. */
function mapView(record, player) {
  const { domain: domains, kind, item, label, xy, predicted } = record.map;
  const flat = xy.flat();
  const low = [0, 1].map((axis) => Math.min(...flat.map((p) => p[axis])));
  const high = [0, 1].map((axis) => Math.max(...flat.map((p) => p[axis])));
  const canvas = make("canvas", { tabindex: 0, role: "img" });
  const picture = make("div", { class: "thumbnail" });
  const words = make("p", {});
  const root = make("div", { class: "map" }, canvas, make("div", { class: "pointed", "aria-live": "polite" }, picture, words));
  let [from, to, begun, chosen, size] = [0, 0, 0, null, [0, 0]];
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const place = (index, time) => {
    const share = to === from || still ? 1 : Math.min((time - begun) / 350, 1);
    const [a, b] = [xy[from][index], xy[to][index]];
    return [0, 1].map((axis) => {
      const where = a[axis] + share * (b[axis] - a[axis]);
      const part = (where - low[axis]) / (high[axis] - low[axis] || 1);
      return 12 + (axis ? 1 - part : part) * (size[axis] - 24);
    });
  };
  const draw = (time) => {
    const scale = devicePixelRatio || 1;
    size = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = size[0] * scale;
    canvas.height = size[1] * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const selected = player.state.domain;
    const colours = Object.fromEntries(domainsOf(record).map((name) => [name, player.colour(name)]));
    for (let index = 0; index < domains.length; index += 1) {
      const [x, y] = place(index, time);
      pen.globalAlpha = selected && selected !== domains[index] ? 0.08 : kind[index] === "class" ? 1 : 0.65;
      pen.fillStyle = colours[domains[index]];
      pen.beginPath();
      if (kind[index] === "class") {
        for (let tip = 0; tip < 10; tip += 1) {
          const [angle, radius] = [(tip * Math.PI) / 5 - Math.PI / 2, tip % 2 ? 3 : 8];
          pen.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
        }
        pen.closePath();
      } else pen.arc(x, y, 3.2, 0, 2 * Math.PI);
      pen.fill();
      if (index === chosen) {
        pen.globalAlpha = 1;
        pen.lineWidth = 2;
        pen.strokeStyle = getComputedStyle(canvas).color;
        pen.beginPath();
        pen.arc(x, y, 9, 0, 2 * Math.PI);
        pen.stroke();
      }
    }
    player.frames += 1;
    if (to !== from && !still && time - begun < 350) requestAnimationFrame(draw);
  };
  const tell = () => {
    picture.style.backgroundImage = "";
    if (chosen === null) { words.textContent = "Point at a dot (or press an arrow key here): its image and answers."; return; }
    const [name, number] = [domains[chosen], item[chosen]];
    const classes = record.classes[name];
    if (kind[chosen] === "class") { words.textContent = `${name}: the text of class ${classes[label[chosen]]}`; return; }
    const answers = [0, to].map((stage) => classes[predicted[name][stage][number]]);
    words.textContent = `${name}, image ${number}: ${classes[label[chosen]]}. Frozen CLIP: ${answers[0]}. Now: ${answers[1]}.`;
    if (!record.pictures) { words.textContent += " (no picture in this record)"; return; }
    const { size: pixels, columns, sheets } = record.pictures;
    picture.style.backgroundImage = `url("${sheets[name]}")`;
    picture.style.backgroundSize = `${columns * 2 * pixels}px auto`;
    picture.style.backgroundPosition = `${-(number % columns) * 2 * pixels}px ${-Math.floor(number / columns) * 2 * pixels}px`;
  };
  const choose = (index) => { chosen = index; tell(); requestAnimationFrame(draw); };
  canvas.addEventListener("mousemove", (event) => {
    const [x, y, time] = [event.offsetX, event.offsetY, performance.now()];
    let [best, nearest] = [12, null];
    domains.forEach((name, index) => {
      if (player.state.domain && player.state.domain !== name) return;
      const [px, py] = place(index, time);
      const distance = Math.hypot(px - x, py - y);
      if (distance < best) [best, nearest] = [distance, index];
    });
    if (nearest !== null && nearest !== chosen) choose(nearest);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const open = domains.flatMap((name, index) => (!player.state.domain || player.state.domain === name ? [index] : []));
    choose(open[(open.indexOf(chosen) + step + open.length) % open.length]);
  });
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(canvas);
  const update = ({ stage }) => {
    if (stage !== to) [from, to, begun] = [to, stage, performance.now()];
    canvas.setAttribute("aria-label", `Map of ${domains.length} images and class texts ${stageName(record, stage)}`);
    tell();
    requestAnimationFrame(draw);
  };
  return { root, update };
}

const VIEWS = [
  ["Accuracy", matrixView, () => true],
  ["Scores so far", scoreView, () => true],
  ["Not learned yet", unseenView, () => true],
  ["Drift by block", driftView, (record) => record.drift],
  ["Routes and experts", routeView, (record) => record.routes || record.weights || record.experts],
  ["Feature map", mapView, (record) => record.map],
];

/** What cannot be shown together, in words; null where all is well. */
function unfit(records) {
  if (!records?.length) return "There is no record to play.";
  for (const record of records) {
    if (record?.format !== "vlcl-record") return "This is no record of a run.";
    if (record.version > VERSION)
      return `This record has version ${record.version}; the player reads up to ${VERSION}. Export it again, or use a newer player.`;
  }
  return null;
}

/** Fill `root` with a player.
 * @param payload {records, colours}: one or two records of one stream; a colour by domain.
 * @param options {hash}: whether the page's address keeps stage, domain and tower. */
export function mount(root, payload, { hash = false } = {}) {
  root.classList.add("vlcl-player");
  const problem = unfit(payload.records);
  if (problem) { root.replaceChildren(make("p", { role: "alert" }, problem)); return null; }
  const { records, colours } = payload;
  const last = Math.max(...records.map((record) => record.stages)) - 1;
  const asked = new URLSearchParams(hash ? location.hash.slice(1) : "");
  const names = [...new Set(records.flatMap(domainsOf))];
  const player = {
    frames: 0,
    // Black ink is the page's own ink, which is light on a dark page.
    colour: (domain) => (colours[domain] === INK ? getComputedStyle(root).color : colours[domain] ?? "#777777"),
    state: {
      stage: Math.max(0, Math.min(Number(asked.get("stage") ?? last) || 0, last)),
      domain: names.includes(asked.get("domain")) ? asked.get("domain") : null,
      tower: asked.get("tower"),
      score: null,
    },
    set(change) {
      Object.assign(player.state, change);
      const { stage, domain, tower } = player.state;
      slider.value = stage;
      const words = [...new Set(records.map((r) => stageName(r, Math.min(stage, r.stages - 1))))].join(" / ");
      slider.setAttribute("aria-valuetext", words);
      output.textContent = `stage ${stage} of ${last}: ${words}`;
      chips.forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.domain === domain)));
      views.forEach((view) => view.update({ ...player.state, stage: Math.min(stage, view.last) }));
      if (hash) {
        const kept = Object.entries({ stage, domain, tower }).filter(([, value]) => known(value));
        history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
      }
    },
    tell(text) { said.textContent = text; },
  };
  const output = make("output", { "aria-live": "polite" });
  const slider = make("input", {
    type: "range", min: 0, max: last, step: 1, "aria-label": "Stage", oninput: () => player.set({ stage: Number(slider.value) }),
  });
  let timer = null;
  const play = make("button", { type: "button", onclick: () => {
    if (timer) { clearInterval(timer); timer = null; } else {
      if (player.state.stage === last) player.set({ stage: 0 });
      timer = setInterval(() => {
        if (player.state.stage < last && root.isConnected) player.set({ stage: player.state.stage + 1 });
        if (player.state.stage === last || !root.isConnected) { clearInterval(timer); timer = null; play.textContent = "Play"; }
      }, 900);
    }
    play.textContent = timer ? "Pause" : "Play";
  } }, "Play");
  const chips = names.map((name) => make("button", {
    type: "button", class: "chip", style: `--own: ${player.colour(name)}`, "data-domain": name,
    onclick: () => player.set({ domain: player.state.domain === name ? null : name }),
  }, name));
  const said = make("p", { class: "said", "aria-live": "polite" }, "Point at a cell for what it means.");
  const views = [];
  const panels = VIEWS.map(([title, view, has]) => {
    const columns = records.map((record) => {
      const heading = records.length > 1 ? [make("h4", {}, `${record.method}, seed ${record.seed}`)] : [];
      if (!has(record)) return make("div", {}, heading, make("p", { class: "absent" }, "This record has nothing of the kind."));
      const made = view(record, player);
      views.push({ update: made.update, last: record.stages - 1 });
      return make("div", {}, heading, made.root);
    });
    const none = !records.some(has);
    return none ? null : make("section", { "aria-label": title }, make("h3", {}, title), make("div", { class: "columns" }, columns));
  }).filter(Boolean);
  const remarks = records.flatMap((record) => record.missing.map((text) => `${record.method}: ${text}`));
  const titles = records.map((r) => `${r.method} on ${r.stream}, seed ${r.seed}, label space ${r.label_space}`).join("  |  ");
  root.replaceChildren(
    make("header", {}, make("h2", {}, titles),
      make("div", { class: "bar" }, play, slider, output),
      make("div", { class: "chips", role: "group", "aria-label": "Domain" }, chips), said),
    make("div", { class: records.length > 1 ? "panels two" : "panels" }, panels),
    ...(remarks.length ? [make("details", { class: "missing", open: true }, make("summary", {}, "What this record does not have"),
      make("ul", {}, remarks.map((text) => make("li", {}, text))))] : []));
  // Inside a notebook, keys meant for a control must not reach the notebook.
  root.addEventListener("keydown", (event) => event.stopPropagation());
  player.set({});
  return player;
}

/** The entry that anywidget calls. */
function render({ model, el }) {
  const root = make("div");
  el.append(root);
  const fill = () => mount(root, model.get("payload"));
  model.on("change:payload", fill);
  fill();
}

export default { render };
