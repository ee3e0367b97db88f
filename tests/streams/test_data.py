"""`vlcl data check` and `vlcl data prepare`."""

import errno
import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from gdown.exceptions import DownloadError
from imitation_data import mtil as imitations

from vlcl_toolkit.cli import main
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams.full_size import prepare as data_prepare
from vlcl_toolkit.streams.full_size.check import check_data
from vlcl_toolkit.streams.full_size.sources import SOURCES, Download, Source

# Check


def faults(root: Path, *sets: str, **options) -> list[str]:
    found = check_data(root, sets, **{"sizes": False, **options})
    return [f"{f.data_set}, {f.aspect}: {f.text}" for f in found if not f.good]


def test_whole_imitations_have_no_fault(mtil_root, imagenet_root):
    assert faults(mtil_root) == []
    assert faults(imagenet_root, "TinyImageNet", "ImageNet", decode=False) == []


def test_five_planted_faults_are_all_named(tmp_path, capsys):
    for name in ("Food", "EuroSAT", "DTD", "OxfordPet", "MNIST"):
        imitations.MTIL[name](tmp_path)
    truncated = tmp_path / "food-101/images/dish_number_007/7001.jpg"
    truncated.write_bytes(truncated.read_bytes()[:200])
    missing = tmp_path / "oxford-iiit-pet/images/pug_2.jpg"
    missing.unlink()
    foreign = tmp_path / "eurosat/2750/Glacier"
    foreign.mkdir()
    (foreign / "Glacier_1.jpg").write_bytes(
        (tmp_path / "eurosat/2750/River/River_1.jpg").read_bytes()
    )
    annotations = tmp_path / "dtd/dtd/labels/test1.txt"
    annotations.unlink()
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-3])
    sets = ["Food", "EuroSAT", "DTD", "OxfordPet", "MNIST"]
    code = main(["data", "check", "--root", str(tmp_path), "--no-sizes", "--sets", *sets])
    output = capsys.readouterr()
    lines = [line for line in output.out.splitlines() if line.startswith("FAULT")]
    assert code == 2
    assert f"{len(lines)} faults in {tmp_path}" in output.err
    for named in (str(truncated), str(missing), str(foreign), str(annotations), "MNIST, zscl:"):
        assert any(named in line for line in lines), named


def test_counts_and_checksums_are_compared_with_the_published_ones(mtil_root):
    found = "\n".join(faults(mtil_root, "Food", "Flowers", "CIFAR100", sizes=True, decode=False))
    assert "Food, zscl: 303 train / 202 test; published: 75750 train / 25250 test" in found
    assert "published: 50500 train / 20200 validation / 30300 test" in found
    assert "imagelabels.mat has MD5" in found
    assert "cifar-100-python/train has MD5" in found
    assert "CIFAR100, zscl: 500 train / 200 test; published: 50000 train / 10000 test" in found


def test_missing_split_files_are_named(mtil_root, tmp_path):
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat/2750").symlink_to(mtil_root / "eurosat/2750")
    (found,) = faults(tmp_path, "EuroSAT", decode=False)
    assert str(tmp_path / "eurosat/split_zhou_EuroSAT.json") in found
    assert "by hand" in found


def test_split_file_of_other_images(tmp_path):
    imitations.eurosat(tmp_path)
    path = tmp_path / "eurosat/split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    split["test"][0][0] = "River/River_99.jpg"
    split["train"] = [entry for entry in split["train"] if entry[1] != 3]
    path.write_text(json.dumps(split))
    found = "\n".join(faults(tmp_path, "EuroSAT"))
    assert "River/River_99.jpg" in found
    assert "1 classes without a training image: Highway or Road" in found


def test_unknown_set_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'Foods'; did you mean 'Food'"):
        faults(tmp_path, "Foods")


# Prepare


class Host(http.server.BaseHTTPRequestHandler):
    """Serves `files`; `ranges`: also parts of them; `limit`: bytes after which it hangs up."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (set by every test)
    limit: int | None = None
    ranges = True
    sent: list[int] = []  # noqa: RUF012

    def do_GET(self):
        content = self.files[self.path.strip("/")]
        wanted = self.headers.get("Range") if self.ranges else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            end, total = len(content) - 1, len(content)
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        self.end_headers()
        type(self).sent.append(start)
        self.wfile.write(content[start:][: self.limit])

    def log_message(self, *_):
        """Silence."""


@pytest.fixture
def host() -> Iterator[str]:
    Host.files, Host.limit, Host.ranges, Host.sent = {}, None, True, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.mark.parametrize("ranges", [True, False], ids=["resumed", "restarted"])
def test_a_broken_download_is_completed_by_the_next_call(host, tmp_path, ranges):
    Host.files, Host.limit = {"a.bin": CONTENT}, 2_000_000
    path, address = tmp_path / "a.bin", f"{host}/a.bin"
    with pytest.raises(DownloadError, match="incomplete"):
        data_prepare.download(address, path, md5_of(CONTENT))
    (part,) = tmp_path.iterdir()
    assert part.name.endswith(".part")
    have = part.stat().st_size
    assert 0 < have <= 2_000_000
    Host.limit, Host.ranges, Host.sent = None, ranges, []
    data_prepare.download(address, path, md5_of(CONTENT))
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]
    assert Host.sent[-1] == (have if ranges else 0)
    calls = len(Host.sent)
    data_prepare.download(address, path, md5_of(CONTENT))
    assert len(Host.sent) == calls, "what is there is not fetched again"


def test_a_download_that_breaks_again_keeps_what_it_has(host, tmp_path):
    Host.files, Host.limit = {"a.bin": CONTENT}, 1_000_000
    sizes = []
    for _ in range(2):
        with pytest.raises(DownloadError):
            data_prepare.download(f"{host}/a.bin", tmp_path / "a.bin", None)
        (part,) = tmp_path.iterdir()
        sizes.append(part.stat().st_size)
    assert 0 < sizes[0] < sizes[1]


def test_a_full_disk_is_named(host, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data_prepare.gdown, "download", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.bin: No space left on device"):
        data_prepare.download(f"{host}/a.bin", tmp_path / "a.bin", None)


def test_a_wrong_checksum_is_refused(host, tmp_path):
    Host.files = {"a.bin": b"something else"}
    with pytest.raises(UserError, match="gave a file with MD5"):
        data_prepare.download(f"{host}/a.bin", tmp_path / "a.bin", md5_of(b"the file"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.bin").write_bytes(b"brought by the user")
    with pytest.raises(UserError, match=r"a\.bin has MD5 .* published is .*; remove it"):
        data_prepare.download(f"{host}/a.bin", tmp_path / "a.bin", md5_of(b"the file"))
    assert (tmp_path / "a.bin").exists()


def served_set(monkeypatch, host: str, tmp_path: Path) -> Path:
    """EuroSAT, from a host of our own."""
    made = tmp_path / "made"
    imitations.eurosat(made)
    archive = tmp_path / "EuroSAT.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((made / "eurosat/2750").rglob("*.jpg")):
            file.write(path, path.relative_to(made / "eurosat"))
    content = archive.read_bytes()
    Host.files = {"EuroSAT.zip": content}
    download = Download(f"{host}/EuroSAT.zip", md5_of(content), "eurosat")
    monkeypatch.setitem(SOURCES, "EuroSAT", Source("eurosat", ("eurosat/2750",), (download,)))
    return tmp_path / "data"


def test_a_set_is_fetched_unpacked_and_then_left_alone(host, tmp_path, monkeypatch, capsys):
    root = served_set(monkeypatch, host, tmp_path)
    arguments = ["data", "prepare", "--root", str(root), "--sets", "EuroSAT"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "EuroSAT: complete"
    assert "split_zhou_EuroSAT.json" in lines[1]
    assert faults(root, "EuroSAT", splits=("zscl",)) == []
    assert [path.name for path in (root / "eurosat").iterdir()] == ["2750"]
    assert main(arguments) == 0
    assert len(Host.sent) == 1


def test_interrupted_unpacking_is_done_again(host, tmp_path, monkeypatch):
    root = served_set(monkeypatch, host, tmp_path)
    extract = data_prepare.extract_archive

    def interrupted(*_: str) -> None:
        (root / "eurosat/2750/River").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(data_prepare, "extract_archive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(data_prepare.prepare_data(root, ["EuroSAT"]))
    monkeypatch.setattr(data_prepare, "extract_archive", extract)
    assert next(data_prepare.prepare_data(root, ["EuroSAT"])) == "EuroSAT: complete"
    assert faults(root, "EuroSAT", splits=("zscl",)) == []
    assert len(Host.sent) == 1, "the archive was there"


def test_a_silent_host_is_reported(tmp_path, monkeypatch):
    def silent(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(data_prepare.gdown, "download", silent)
    (line, *_) = data_prepare.prepare_data(tmp_path, ["DTD"])
    assert "was not fetched (no route to host)" in line
    assert f"put the file at {tmp_path}/dtd/dtd-r1.0.1.tar.gz" in line


def test_what_to_fetch_by_hand_and_where_to_put_it(tmp_path):
    lines = "\n".join(data_prepare.prepare_data(tmp_path / "data", fetch=False))
    for needed in (
        f"StanfordCars: by hand, into {tmp_path}/data/stanford_cars",
        f"{tmp_path}/data/SUN397/split_zhou_SUN397.json",
        f"{tmp_path}/data/flowers-102/split_zhou_OxfordFlowers.json",
        "Validation_GCC-1.1.0-Validation.tsv",
    ):
        assert needed in lines


def test_complete_sets_need_nothing(mtil_root):
    lines = list(data_prepare.prepare_data(mtil_root, fetch=False))
    assert lines[:11] == [f"{name}: complete" for name in imitations.MTIL]
