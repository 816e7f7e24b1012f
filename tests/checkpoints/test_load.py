"""`load` on every layout, strictly: official files, downloads, our own checkpoints, other class counts, bad input."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detrscope.checkpoints.download import fetch_checkpoint
from detrscope.checkpoints.load import load_backbone_checkpoint, load_model, load_with_new_class_head
from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.families import VARIANTS
from detrscope.families.family import Published
from detrscope.families.keys.detr import PUBLISHED
from tests.support.published_checkpoints import ARGS, official_state
from tests.support.tiny_models import CLASSES, tiny


@pytest.fixture
def official(tmp_path: Path) -> Path:
    path = tmp_path / "official.pth"
    torch.save({"model": official_state(), "optimizer": {"state": {}}, "epoch": 3, "args": ARGS}, path)
    return path


def test_official_file_with_its_namespace(official: Path) -> None:
    loaded = load_model(official)
    assert loaded.card.config["encoder"] == {"layers": 1, "heads": 4, "feedforward": 64, "dropout": 0.1}
    assert loaded.card.config["backbone"]["name"] == "resnet18" and loaded.card.config["queries"] == 7
    assert loaded.report.skipped == ("optimizer", "epoch", "args")
    assert len(PUBLISHED.rename(official_state(), {})) == loaded.report.loaded


def test_every_misfitting_key_is_listed(tmp_path: Path) -> None:
    state = official_state()
    del state["transformer.decoder.norm.bias"]
    state["query_embed.weight"] = torch.zeros(9, 16)
    torch.save({"model": state, "args": ARGS}, tmp_path / "broken.pth")
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "broken.pth")
    text = str(error.value)
    assert "missing decoder.norm.bias [32]" in text
    assert "queries.position.weight is [9, 16], expected [9, 32]" in text
    assert "\n" not in text
    torch.save({"model": {**official_state(), "surprise": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(UserError, match="1 keys unknown to the published layout: surprise"):
        load_model(tmp_path / "more.pth")


def test_variant_name_with_a_file_of_another_variant(official: Path) -> None:
    with pytest.raises(UserError, match=r"official.pth \(published layout\): \d+ problems: "):
        load_model("detr-r50", weights=official)


def test_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("owned",))

    torch.save({"model": {"class_embed.weight": torch.zeros(4, 8)}, "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth: not a readable PyTorch checkpoint"):
        load_model(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 truncated"])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"bad{suffix}: not a readable") as error:
            load_model(path)
        assert "\n" not in str(error.value)


def test_other_classes_reset_the_class_head_only(official: Path, tmp_path: Path) -> None:
    wanted = ClassTable((5, 6), ("mouse", "rat"))
    loaded = load_model(official, classes=wanted)
    before = load_model(official)
    assert loaded.card.classes == wanted
    assert loaded.report.reset == ("heads.class_head.weight", "heads.class_head.bias")
    assert loaded.model.heads.class_head.out_features == 3
    state = loaded.model.state_dict()
    for key, tensor in before.model.state_dict().items():
        if key not in loaded.report.reset:
            assert torch.equal(state[key], tensor), key
    assert any("reset to random weights: heads.class_head.weight" in line for line in loaded.report.lines())
    assert any("skipped: optimizer, epoch, args" in line for line in loaded.report.lines())
    save_checkpoint(tmp_path / "two.safetensors", loaded.model, loaded.card)
    assert load_model(tmp_path / "two.safetensors").card.classes.ids == (5, 6)


def test_same_classes_keep_the_head() -> None:
    loaded = tiny("detr-r18")
    assert load_with_new_class_head(loaded, ClassTable((3,), ("x",))).report.reset
    assert loaded.card.classes == CLASSES


def test_91_classes_keep_their_coco_ids(tmp_path: Path) -> None:
    torch.save({"model": official_state(91), "args": ARGS}, tmp_path / "coco.pth")
    classes = load_model(tmp_path / "coco.pth").card.classes
    assert classes.names[18] == "dog" and classes.ids[18] == 18 and classes.names[12] == "unused 12"


def test_run_folder_loads_the_best_checkpoint(tmp_path: Path) -> None:
    loaded = tiny("detr-r18")
    save_checkpoint(tmp_path / "last.safetensors", loaded.model, loaded.card)
    assert load_model(tmp_path).report.source.endswith("last.safetensors")
    save_checkpoint(tmp_path / "best.safetensors", loaded.model, loaded.card)
    assert load_model(tmp_path).report.source.endswith("best.safetensors")


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="model 'detr-r5O': not a known model; did you mean 'detr-r50'"):
        load_model("detr-r5O")
    with pytest.raises(UserError, match=r"model 'no/such.pth': no such file"):
        load_model("no/such.pth")
    with pytest.raises(UserError, match="detr-r18 has no published weights"):
        load_model("detr-r18")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model; expected a run folder"):
        load_model(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on loopback that serves a folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", folder
        httpd.shutdown()
        thread.join()


def test_download_checks_caches_and_explains(
    server: tuple[str, Path], official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    content = official.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:8]
    url = f"{address}/small-{digest}.pth"
    with pytest.raises(
        UserError, match=r"cannot download .*; download it by hand, then put it at .*pass a file as weights"
    ):
        fetch_checkpoint(url, digest)
    (folder / f"small-{digest}.pth").write_bytes(content[:-1])
    with pytest.raises(UserError, match="another SHA-256"):
        fetch_checkpoint(url, digest)
    assert not list((tmp_path / "cache").iterdir()), "a broken download was left behind"
    (folder / f"small-{digest}.pth").write_bytes(content)
    path = fetch_checkpoint(url, digest)
    assert path.read_bytes() == content and load_model(path).card.family == "detr"
    (folder / f"small-{digest}.pth").unlink()
    assert fetch_checkpoint(url, digest) == path, "not taken from the cache"
    path.write_bytes(b"rotten")
    with pytest.raises(UserError, match="cannot download"):
        fetch_checkpoint(url, digest)


def test_files_load_by_url(
    server: tuple[str, Path], official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of the same name at different addresses do not take each other's place in the cache."""
    address, folder = server
    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path / "cache"))
    state = {"model": official_state()}
    for size, shift in (("small", 0.0), ("large", 1.0)):
        (folder / size).mkdir()
        state["model"]["class_embed.bias"] += shift
        torch.save(state, folder / size / "best.pth")
    small, large = (load_model(f"{address}/{size}/best.pth").model for size in ("small", "large"))
    difference = large.get_parameter("heads.class_head.bias") - small.get_parameter("heads.class_head.bias")
    assert torch.allclose(difference, torch.ones(()))
    (folder / "small" / "best.pth").unlink()
    load_model(f"{address}/small/best.pth")  # from the cache
    (folder / "other-01234567.pth").write_bytes(official.read_bytes())
    with pytest.raises(UserError, match="another SHA-256 than 01234567"):
        load_model(f"{address}/other-01234567.pth")
    with pytest.raises(UserError, match=r"cannot download .*; download it by hand, .* or give its path"):
        load_model(f"{address}/absent.pth")
    with pytest.raises(UserError, match="expected the URL of a file"):
        load_model(f"{address}/small/")


def test_offline_names_the_file_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    monkeypatch.setenv("DETRSCOPE_CACHE", str(tmp_path))
    dead = replace(
        VARIANTS["detr-r50"], published=Published("http://127.0.0.1:9/detr-r50-e632da11.pth", 42.0)
    )
    monkeypatch.setitem(VARIANTS, "detr-r50", dead)
    with pytest.raises(
        UserError,
        match=r"detr-r50-e632da11.pth .*put it at .*detr-r50-e632da11.pth or pass a file as weights",
    ):
        load_model("detr-r50")


def test_published_file_names_hold_hashes() -> None:
    released = [v.published for v in VARIANTS.values() if isinstance(v.published, Published)]
    files = {published.file_name: published.sha256_prefix for published in released}
    assert files["detr-r50-e632da11.pth"] == "e632da11"
    assert all(len(prefix) == 8 for prefix in files.values())


def test_backbone_weights_from_a_file(tmp_path: Path) -> None:
    import torchvision

    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "r18.pth")
    for variant in ("detr-r18",):
        model = tiny(variant).model
        report = load_backbone_checkpoint(model, str(tmp_path / "r18.pth"))
        assert report.loaded > 60
        assert torch.equal(model.backbone.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "r34.pth")
    with pytest.raises(UserError, match=r"r34.pth: does not fit the backbone: left over"):
        load_backbone_checkpoint(model, str(tmp_path / "r34.pth"))


def test_hugging_face_id_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        UserError, match=r"cannot get 'facebook/detr-resnet-50' .*by hand and load the folder"
    ):
        load_model("facebook/detr-resnet-50")
