// Keys pressed inside a panel are the panel's. See keys.py.

// JupyterLab (Lumino) takes no shortcut from an element with this mark. It looks for it in the capture phase of the
// document, so that the mark has to be right before that: in the window's.
function mark(event) {
  if (!event.target.closest?.("[data-vlcl-keys]")) return;
  const shortcut = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
  event.target.toggleAttribute("data-lm-suppress-shortcuts", !shortcut); // saving, or running the next cell, goes on working
  const moves = /^(Arrow|Page|Home|End)/.test(event.key);
  if (moves && event.target.closest("[disabled]")) event.preventDefault(); // would scroll the page
}

function keepFocus(panel) {
  let last = null; // a button that is switched off loses the focus, and gets it back
  panel.addEventListener("focusin", (event) => (last = event.target));
  const back = () => {
    if (document.activeElement === document.body && last?.isConnected && !last.disabled) last.focus({ preventScroll: true });
  };
  new MutationObserver(back).observe(panel, { attributes: true, attributeFilter: ["disabled"], subtree: true });
}

function render({ el }) {
  el.style.display = "none";
  // The panel exists only once this element is in its place.
  const look = () => {
    const panel = el.closest(".vlcl-panel");
    if (!panel) return el.isConnected || requestAnimationFrame(look);
    if ("vlclKeys" in panel.dataset) return;
    panel.dataset.vlclKeys = "";
    keepFocus(panel);
    if (!window.vlclKeys) window.addEventListener("keydown", (window.vlclKeys = mark), true);
  };
  look();
}

export default { render };
