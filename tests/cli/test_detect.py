"""`detrscope detect`, `detrscope models`, and the Python twin of detect."""

import csv
import http.server
import json
import logging
import shutil
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from detrscope.cli import main
from detrscope.commands.detect import detect
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.probe import Probe
from detrscope.core.types import Outputs
from detrscope.inference import load_detector as detector_module
from detrscope.inference.image_detections import to_supervision
from detrscope.inference.media.sources import UniqueNames, expand_media_sources
from detrscope.inference.torch_engine import TorchEngine
from detrscope.views.canvas import class_colours
from detrscope.views.mp4 import write_mp4
from tests.support.square_detector import NAMES, WORLD, SquareDetector, picture
from tests.support.videos import damaged_clip, write_clip

DETECTOR = SquareDetector()


def box_of(number: int) -> list[float]:
    x, y, w, h = WORLD[number][1]
    return [x, y, x + w, y + h]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 0 to 2, beside a text file."""
    path = tmp_path / "in"
    path.mkdir()
    for number in range(3):
        picture(number).save(path / f"{number}.png")
    (path / "notes.txt").write_text("no picture")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of the real entry point; the model is the one that sees squares."""

    def load(name: str, **_: object) -> SquareDetector:
        assert name == "squares"
        return DETECTOR

    monkeypatch.setattr(detector_module, "load", load)
    monkeypatch.setattr(sys, "argv", ["detrscope", "detect", *map(str, arguments), "--model", "squares"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_folder_gives_images_json_csv_and_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, folder, "--out", out) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "detections.csv",
        "detections.json",
    ]
    tree = json.loads((out / "detections.json").read_text())
    assert [one["source"] for one in tree] == [str(folder / f"{n}.png") for n in range(3)]
    for number, one in enumerate(tree):
        (row,) = one["detections"]
        index = WORLD[number][2]
        assert row["box_xyxy"] == pytest.approx(box_of(number), abs=1e-3)
        assert (row["category_id"], row["name"], row["query_id"]) == ((1, 7, 900)[index], NAMES[index], 1)
        assert (one["width"], one["height"]) == WORLD[number][0]
    rows = list(csv.DictReader((out / "detections.csv").read_text().splitlines()))
    assert [r["category_id"] for r in rows] == ["1", "7", "900"]
    assert [float(rows[0][c]) for c in ("x0", "y0", "x1", "y1")] == pytest.approx(box_of(0), abs=1e-3)
    table = capsys.readouterr().out
    assert all(name in table for name in NAMES) and "8.0  8.0  32.0  24.0" in table
    with Image.open(out / "0.png") as image:
        pixels = np.asarray(image)
    scale = pixels.shape[1] // 64  # a tiny picture is enlarged
    assert (pixels[24 * scale - 1, 10 * scale] == class_colours(NAMES)["ruby"]).all()


def test_default_output_folder_is_detections(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, folder / "1.png", "--format", "jpg") == 0
    assert sorted(p.name for p in (tmp_path / "detections").iterdir()) == [
        "1.jpg",
        "detections.csv",
        "detections.json",
    ]


def test_json_and_csv_go_to_standard_output_and_write_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, folder, "--json", "--quiet") == 0
    assert [len(one["detections"]) for one in json.loads(capsys.readouterr().out)] == [1, 1, 1]
    assert run(monkeypatch, folder, "--csv", "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "source,frame,time,x0,y0,x1,y1,score,category_id,name,query_id"
    assert len(lines) == 4
    assert not (tmp_path / "detections").exists()


def test_threshold_and_names_select_detections(folder: Path) -> None:
    assert [len(f.detections) for f in detect(DETECTOR, folder)] == [1, 1, 1]
    assert [len(f.detections) for f in detect(DETECTOR, folder, threshold=0)] == [2, 2, 2]
    assert [len(f.detections) for f in detect(DETECTOR, folder, threshold=0.95)] == [0, 0, 0]
    kept = [f.detections for f in detect(DETECTOR, folder, threshold=0, show_names=["leaf"])]
    assert [d.names for d in kept] == [(), ("leaf",), ()]
    assert kept[1].boxes_xyxy.tolist() == [box_of(1)] and kept[1].query_ids.tolist() == [1]


def test_globs_files_and_memory_can_be_mixed(folder: Path, tmp_path: Path) -> None:
    (folder / "deep").mkdir()
    picture(3).save(folder / "deep" / "3.png")
    array = np.asarray(picture(4))
    sources = [str(folder / "[12].png"), folder / "0.png", array, picture(0), str(folder / "**" / "3.png")]
    found = detect(DETECTOR, sources, out=tmp_path / "out")
    names = ["1.png", "2.png", "0.png", "image 4", "image 5", "3.png"]
    assert [Path(f.source).name for f in found] == names
    assert found[3].detections.boxes_xyxy[0].tolist() == pytest.approx(box_of(4), abs=1e-3)
    assert (tmp_path / "out" / "image-4.png").is_file()


def test_files_of_the_same_name_get_unique_outputs(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    detect(DETECTOR, [folder / "0.png", other / "0.png"], out=tmp_path / "out")
    assert {"0.png", "0-2.png"} < {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_are_in_upright_pixels(tmp_path: Path, mode: str, orientation: int) -> None:
    upright = picture(0)
    turns = {
        1: None,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright if turns[orientation] is None else upright.transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    stored.convert("L").point(lambda v: 255 if v else 0).save(path) if mode == "L" else stored.convert(
        mode
    ).save(path)
    with Image.open(path) as image:
        image.load()
        image.save(path.with_suffix(".png" if mode != "CMYK" else ".jpg"), exif=exif, quality=95)
    path = path.with_suffix(".png" if mode != "CMYK" else ".jpg")
    (found,) = detect(DETECTOR, path)
    assert (found.detections.width, found.detections.height) == (64, 48)
    tolerance = 1.0 if mode == "CMYK" else 0.0  # JPEG
    assert found.detections.boxes_xyxy[0].tolist() == pytest.approx(box_of(0), abs=tolerance)
    if mode != "L":
        assert found.detections.names == ("ruby",)


def test_unreadable_named_file_stops_before_writing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    (folder / "bad.png").write_bytes(picture(0).tobytes()[:50])
    assert run(monkeypatch, folder / "0.png", folder / "bad.png", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "bad.png" in error
    assert not (tmp_path / "out").exists()


def test_unreadable_files_in_a_folder_are_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "1.png").write_bytes(b"")
    (folder / "clip.mp4").write_bytes(b"no video")
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        found = detect(DETECTOR, folder)
    assert [Path(f.source).name for f in found] == ["0.png", "2.png"]
    assert "1.png: the file is empty" in caplog.text and "clip.mp4: cannot be read as a video" in caplog.text
    assert "2 of 4 images and videos could not be read and were skipped" in caplog.text


def test_folder_without_readable_files_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(WorkFailed, match="none of the 1"):
        detect(DETECTOR, tmp_path / "in")
    assert run(monkeypatch, tmp_path / "in", "--out", tmp_path / "out") == 1
    assert "none of the 1 images and videos could be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["none.png"], {}, "none.png: no such file or folder"),
        (["*.gif"], {}, r"\*.gif: no images or videos match"),
        ([""], {}, "no images or videos in this folder"),
        (["0.png"], {"threshold": 1.5}, "threshold 1.5"),
        (["0.png"], {"show_names": ["rubi"]}, "did you mean 'ruby'"),
        (["0.png"], {"image_format": "pgn", "out": "out"}, "did you mean 'png'"),
    ],
)
def test_bad_input_is_named(
    folder: Path, tmp_path: Path, sources: list[str], options: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    paths = [str(folder / s) if s else str(tmp_path / "empty") for s in sources]
    with pytest.raises(UserError, match=message):
        detect(DETECTOR, paths, **options)


def test_source_images_are_never_overwritten(folder: Path) -> None:
    before = (folder / "0.png").read_bytes()
    with pytest.raises(UserError, match="is a source and would be overwritten; choose another out"):
        detect(DETECTOR, folder, out=folder)
    assert (folder / "0.png").read_bytes() == before


def test_video_keeps_its_frames_and_rate(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    clip = write_clip(tmp_path / "clip.mp4", rate)
    found = detect(DETECTOR, clip, out=tmp_path / "out")
    assert [f.frame for f in found] == list(range(8))
    assert [f.time for f in found] == pytest.approx([i / float(rate) for i in range(8)], abs=1e-5)
    for i, one in enumerate(found):
        expected = [8 + 4 * i, 16, 32 + 4 * i, 40]
        assert one.detections.boxes_xyxy[0].tolist() == pytest.approx(expected, abs=1)
        assert one.detections.names == ("sky",)
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert stream.average_rate == rate
    assert len(frames) == 8
    scale = frames[0].shape[1] // 80
    for i, frame in enumerate(frames):
        edge = frame[40 * scale - 1, (12 + 4 * i) * scale].astype(int)
        assert np.abs(edge - class_colours(NAMES)["sky"]).max() < 40  # the colour, through H.264
    lines = [json.loads(line) for line in (tmp_path / "out" / "clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(8))
    assert lines == [one.to_json() for one in found]
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == lines
    assert len((tmp_path / "out" / "detections.csv").read_text().splitlines()) == 9


def test_failed_video_leaves_no_file(tmp_path: Path) -> None:
    clip, out = damaged_clip(tmp_path / "clip", ".mp4", set()), tmp_path / "out"
    written: list[Path] = []

    class Breaks(TorchEngine):
        def predict(
            self, images: Tensor, padding: Tensor | None = None, probe: Probe | None = None
        ) -> Outputs:
            self.calls = getattr(self, "calls", 0) + 1
            while self.calls == 4 and not written:  # the writer is at work
                written.extend(out.iterdir() if out.exists() else ())
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().predict(images, padding, probe)

    detector = SquareDetector()
    detector.engine = Breaks(detector.engine.model)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        detect(detector, clip, out=out)
    assert written and not list(out.iterdir())


def test_video_that_changes_size_is_written(tmp_path: Path) -> None:
    with write_mp4(tmp_path / "a.mp4", 5) as add:
        for size in ((64, 80), (64, 80), (32, 40), (81, 121)):
            add(np.full((*size, 3), 200, np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(64, 80, 3)] * 4 and frames[2].mean() > 190


@pytest.mark.parametrize("ending", [".gif", ".tif", ".webp", ".png"])
def test_unread_frames_of_animations_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    others = [
        picture(0).transpose(turn) for turn in (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM)
    ]
    picture(0).save(path, save_all=True, append_images=others)
    picture(0).save(tmp_path / f"single{ending}")
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        assert len(detect(DETECTOR, [path, tmp_path / f"single{ending}"])) == 2
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"a{ending}: only the first of its 3 frames" in said


def test_skipped_files_of_a_folder_are_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "._0.png").write_bytes(b"\0\5\x16\7")
    with caplog.at_level(logging.INFO, logger="detrscope"):
        assert len(detect(DETECTOR, folder)) == 3
        assert len(detect(DETECTOR, str(folder / "*.png"))) == 3
    assert "left out 1 file that are not images or videos: notes.txt" in caplog.text
    assert "._0.png" not in caplog.text


def test_names_of_outputs_fit_every_file_system(tmp_path: Path) -> None:
    names = [
        "A.png",
        "a.png",
        "\u00e9.png",
        "e\u0301.png",
        f"{'犬' * 80}.png",
        f"{'犬' * 82}.png",
        "x\ud800.png",
    ]
    stems = UniqueNames()
    given = [stems.unused(Path(name).stem) for name in names]
    folded = {unicodedata.normalize("NFC", stem).casefold() for stem in given}
    assert len(folded) == len(names) and max(len(stem.encode()) for stem in given) < 200


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The folder on http; counts what is fetched."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            fetched.append(self.path)

    fetched: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()
    assert fetched.count("/1.png") == 1


def test_url_is_downloaded_once(server: str, tmp_path: Path) -> None:
    (found,) = detect(DETECTOR, f"{server}/1.png", out=tmp_path / "out")
    assert found.source == f"{server}/1.png"
    assert found.detections.boxes_xyxy.tolist() == [box_of(1)]
    assert (tmp_path / "out" / "1.png").is_file()
    with pytest.raises(UserError, match="404"):
        detect(DETECTOR, f"{server}/none.png")


def test_expand_classifies_each_source(folder: Path) -> None:
    write_clip(folder / "clip.MP4")
    sources = expand_media_sources(
        [folder, "https://example.org/a%20b.jpg?x=1", np.zeros((4, 4, 3), np.uint8)]
    )
    assert [(s.stem, s.kind, s.named) for s in sources] == [
        ("0", "image", False),
        ("1", "image", False),
        ("2", "image", False),
        ("clip", "video", False),
        ("a b", "image", True),
        ("image-6", "image", True),
    ]


@pytest.mark.filterwarnings("ignore:OpenCV .* is not installed:UserWarning")
def test_supervision_gets_the_same_detections(folder: Path) -> None:
    (found,) = detect(DETECTOR, folder / "2.png", threshold=0)
    theirs = to_supervision(found.detections)
    assert theirs.xyxy.tolist() == found.detections.boxes_xyxy.tolist()
    assert theirs.class_id is not None and theirs.class_id.tolist() == [900, 1]
    assert theirs.confidence is not None and theirs.confidence.tolist() == pytest.approx([0.9, 0.4])
    assert theirs.data["class_name"].tolist() == ["sky", "ruby"]
    assert theirs[theirs.data["query_id"] == 1].xyxy[0].tolist() == pytest.approx(box_of(2), abs=1e-3)
    assert len(to_supervision(detect(DETECTOR, picture(0), threshold=0.99)[0].detections)) == 0


def test_supervision_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"pip install 'detrscope\[supervision\]'"):
        to_supervision(detect(DETECTOR, picture(0))[0].detections)


def test_overview_counts_classes_of_many_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    assert run(monkeypatch, clip, "--out", tmp_path / "out") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "clip.mp4" in line]
    assert "8 sky" in line


def test_json_lines_are_printed_frame_by_frame(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, clip, "--json-lines", "--frames", 3) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2] and lines[2]["detections"][0]["name"] == "sky"
    assert not (tmp_path / "detections").exists()


def test_only_one_form_of_output_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert run(monkeypatch, folder, "--json-lines", "--csv") == 2
    assert "give one of --json, --json-lines and --csv" in capsys.readouterr().err


def test_tracks_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    assert run(monkeypatch, clip, "--track", "--out", tmp_path / "out") == 0
    (track,) = json.loads((tmp_path / "out" / "clip.tracks.json").read_text())
    assert (track["name"], track["first"], track["last"], track["frames"]) == ("sky", 1, 7, 7)
    lines = [json.loads(line) for line in (tmp_path / "out" / "clip.jsonl").read_text().splitlines()]
    ids = [line["detections"][0]["track_id"] for line in lines]
    assert ids == [None] + 7 * [track["track_id"]]
    rows = list(csv.DictReader((tmp_path / "out" / "detections.csv").read_text().splitlines()))
    assert [row["track_id"] for row in rows] == [""] + 7 * [str(track["track_id"])]
    assert "first frame" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "0"], "frames 0: expected a number above 0"),
        (["--seconds", "-1"], "seconds -1.0: expected a number above 0"),
        (["--timeout", "nan"], "timeout nan: expected a number above 0"),
        (["--reconnects", "-1"], "reconnects -1: expected a whole number"),
        (["--track"], "track: is for videos and streams, and none of the sources is one"),
        (["--seconds", "2"], "seconds: is for videos and streams, and none of the sources is one"),
        (["--timeout", "3"], "timeout: is for streams, and none of the sources is one"),
        (["--attention", "rubi"], "did you mean 'ruby'"),
        (["--attention", "ruby"], "attention: engine 'torch' records no cross-attention"),
    ],
)
def test_wrong_video_options_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    assert run(monkeypatch, folder / "0.png", *words, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_models_are_listed_as_a_table_and_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from detrscope.families import VARIANTS

    for option in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["detrscope", "models", *option])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
    text = capsys.readouterr().out
    table, _, rest = text.partition("\n[\n")
    assert all(name in table for name in VARIANTS)
    rows = {row["name"]: row for row in json.loads("[" + rest)}
    assert list(rows) == list(VARIANTS)
    assert rows["detr-r50"]["AP"] == 42.0 and rows["detr-r50"]["weights"].endswith(".pth")
    assert rows["detr-r18"]["weights"] is None


def test_installed_command_reports_errors(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from detrscope.cli import main; main()"]
    arguments = ["detect", "none.jpg", "--model", "detr-r18"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "detrscope: none.jpg: no such file or folder\n"
    assert not list(tmp_path.iterdir())
