"""Native exports of annotation tools: LabelMe, CVAT, Label Studio and CrowdHuman."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.data.check import check
from detrscope.data.coco_masks import decode_mask
from detrscope.data.convert import convert_dataset
from detrscope.data.dataset import DetectionDataset
from detrscope.data.open_dataset import open_dataset, splits_of
from detrscope.data.subset import Counts, cut_subset
from tests.support.tool_folders import (
    annotation,
    crowdhuman_line,
    cvat_image,
    labelme_shape,
    person,
    region,
    save,
    task,
    write_cvat,
    write_labelme,
    write_tasks,
)

BOX = [[10, 20], [40, 60]]  # two corners


def rows(dataset: DetectionDataset) -> list[tuple[str, tuple[float, ...], bool]]:
    """Return class name, box and crowd of every annotation."""
    return [
        (dataset.classes.name_of(a.category_id), tuple(round(v, 3) for v in a.bbox_xywh), a.iscrowd)
        for image in dataset.images
        for a in dataset.annotations[image.id]
    ]


def kinds(source: str | Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for p in check(source).problems:
        found.setdefault(p.kind, []).append(p.reason)
    return found


# LabelMe


def test_labelme_shapes_become_boxes(tmp_path: Path) -> None:
    write_labelme(
        tmp_path / "a.json",
        [
            labelme_shape("dog", BOX),
            labelme_shape("dog", BOX[::-1]),
            labelme_shape("cat", [[10, 10], [50, 12], [30, 40]], "polygon"),
            labelme_shape("cat", [[100, 50], [103, 54]], "circle"),
            labelme_shape("cow", [[20, 30], [29, 39]], "mask"),
            labelme_shape("cow", [[0, 0], [9, 9]], "rectangle", difficult=True),
            labelme_shape("cow", [[50, 50], [53, 54]], "circle", difficult=True),
        ],
    )
    for source in (f"labelme:{tmp_path}", tmp_path):
        dataset = open_dataset(source, "train", details=True)
        assert rows(dataset) == [
            ("dog", (10, 20, 30, 40), False),
            ("dog", (10, 20, 30, 40), False),
            ("cat", (10, 10, 40, 30), False),
            ("cat", (95, 45, 10, 10), False),
            ("cow", (20, 30, 10, 10), False),
            ("cow", (0, 0, 9, 9), True),
            ("cow", (45, 45, 10, 10), True),
        ]
        assert dataset.classes.to_json() == [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "cow"},
            {"id": 3, "name": "dog"},
        ]
    triangle, circle = dataset.annotations[1][2:4]
    assert triangle.segmentation == [[10, 10, 50, 12, 30, 40]] and triangle.area == 580
    assert math.isclose(circle.area, 25 * math.pi)
    mask = decode_mask(circle.segmentation, 100, 200)
    assert mask is not None and abs(mask.sum() - circle.area) < 5


def test_labelme_polygons_of_a_group_are_one_object(tmp_path: Path) -> None:
    parts = [[[0, 0], [10, 0], [0, 10]], [[50, 50], [60, 50], [50, 60]]]
    shapes = [labelme_shape("dog", part, "polygon", group_id=7) for part in parts]
    write_labelme(tmp_path / "a.json", [*shapes, labelme_shape("cat", parts[0], "polygon", group_id=7)])
    dataset = open_dataset(tmp_path, "train", details=True)
    assert rows(dataset) == [("dog", (0, 0, 60, 60), False), ("cat", (0, 0, 10, 10), False)]
    assert len(dataset.annotations[1][0].segmentation) == 2 and dataset.annotations[1][0].area == 100


def test_labelme_counts_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_labelme(
        tmp_path / "a.json",
        [
            labelme_shape("dog", BOX),
            labelme_shape("dog", [[1, 1]], "point"),
            labelme_shape("dog", BOX, "line"),
            labelme_shape("__ignore__", BOX),
            labelme_shape("dog", [[1, 1]]),
            labelme_shape("dog", [[1, math.inf], [3, 4]]),
            labelme_shape("dog", "x"),
            labelme_shape("dog", [[1, 1e308], [3, 4]], "circle"),  # finite, but its area is not
            labelme_shape("dog", BOX, {"a": 1}),  # type: ignore[arg-type]
        ],
    )
    found = kinds(tmp_path)
    assert (
        len(found["unused-shape"]) == 4 and "shapes[1] 'dog' is of type 'point'" in found["unused-shape"][0]
    )
    assert (
        len(found["bad-box"]) == 4 and "shapes[4]: the rectangle 'dog' needs 2 points" in found["bad-box"][0]
    )
    with caplog.at_level("INFO"):
        assert len(rows(open_dataset(tmp_path, "train"))) == 1
    assert "4 x unused-shape (such as a.json)" in caplog.text and "4 x bad-box" in caplog.text


def test_labelme_splits_share_their_classes(tmp_path: Path) -> None:
    write_labelme(tmp_path / "train" / "a.json", [labelme_shape("zebra", BOX)])
    write_labelme(tmp_path / "val" / "b.json", [labelme_shape("ant", BOX)])
    (tmp_path / "val" / "notes.json").write_text("{}")
    assert splits_of(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "train").annotations[1][0].category_id == 2
    assert "not LabelMe's" in kinds(tmp_path)["unused-file"][0]
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\n")
    assert open_dataset(tmp_path, "train").classes.names == ("zebra",)
    with pytest.raises(UserError, match=r"b\.json: annotation 1: 'ant' is not in the list of classes"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("a.json", "pictures\\a.png"),
        ("json/a.json", "../images/a.png"),
        ("json/a.json", "..\\a.png"),
        ("json/a.json", "A.PNG"),
    ],
)
def test_labelme_images_are_found_from_their_file(file: str, image: str, tmp_path: Path) -> None:
    write_labelme(tmp_path / file, [labelme_shape("dog", BOX)], image)
    if image.startswith(".."):
        save((tmp_path / file).parent / image.replace("\\", "/"))
    assert open_dataset(tmp_path, "train").images[0].path.is_file()


def test_labelme_agrees_with_supervision(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import supervision as sv
    parts = [[[0, 0], [10, 0], [0, 10]], [[50, 50], [60, 50], [50, 60]]]
    write_labelme(tmp_path / "a.json", [labelme_shape("dog", BOX), labelme_shape("ant", parts[0], "polygon")])
    write_labelme(tmp_path / "b.json", [labelme_shape("dog", p, "polygon", group_id=1) for p in parts])
    ours = open_dataset(tmp_path, "train")
    theirs = sv.DetectionDataset.from_labelme(str(tmp_path), str(tmp_path))
    assert list(ours.classes.names) == theirs.classes
    for image in ours.images:
        expected = theirs.annotations[str(image.path)]
        boxes = np.array([a.bbox_xywh for a in ours.annotations[image.id]])
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(boxes, expected.xyxy)
        assert [a.category_id - 1 for a in ours.annotations[image.id]] == list(expected.class_id)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json: not valid JSON"),
        ("[" * 100_000, r"a\.json: nested too deeply"),
        (
            '{"shapes": [{"points": []}], "imagePath": "a.png"}',
            r"shapes\[0\]: expected a shape with a 'label'",
        ),
        ('{"shapes": [], "imagePath": 7}', r"a\.json: imagePath is 7"),
        ('{"shapes": [], "imagePath": "../../secret.png"}', r"outside of the dataset's folder"),
        ('{"shapes": [], "imagePath": "/etc/passwd"}', r"outside of the dataset's folder"),
    ],
)
def test_broken_labelme_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "x" / "set"
    save(tmp_path / "secret.png")
    write_labelme(folder / "ok.json", [labelme_shape("dog", BOX)])
    (folder / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(folder, "train")


def test_one_labelme_file_points_to_its_folder(tmp_path: Path) -> None:
    path = write_labelme(tmp_path / "a.json", [labelme_shape("dog", BOX)])
    with pytest.raises(UserError, match="LabelMe's file of one image; give its folder: labelme:"):
        open_dataset(path, "train")


# CVAT


CVAT_SHAPES = (
    '<box label="dog" source="manual" occluded="0" xtl="10" ytl="20" xbr="40" ybr="60" z_order="0"></box>'
    '<box label="dog" xtl="20" ytl="40" xbr="60" ybr="60" rotation="90"><attribute name="x">1</attribute></box>'
    '<box label="dog" xtl="50" ytl="50" xbr="70" ybr="70" rotation="45"/>'
    '<polygon label="cat" points="10.0,10.0;50.0,12.0;30.0,40.0"/>'
    '<ellipse label="cat" cx="100" cy="50" rx="20" ry="10" rotation="90"/>'
    '<mask label="cat" rle="1, 2, 2, 1, 0" left="150" top="30" width="3" height="2"/>'
)
CVAT_LEFT_OUT = (
    '<polyline label="dog" points="1,1;2,2"/><points label="dog" points="1,1"/><tag label="dog"></tag>'
    '<mask label="cat" rle="6" left="150" top="30" width="3" height="2"/>'
    '<polygon label="cat" points="1,1;2,x;3,3"/><box label="dog" xtl="1" ytl="nan" xbr="4" ybr="5"/>'
    '<mask label="cat" rle="1, 2" left="1" top="3" width="3000000000" height="2000000000"/>'
)


def test_cvat_shapes_become_boxes(tmp_path: Path) -> None:
    file = write_cvat(tmp_path / "annotations.xml", cvat_image(0, "a.png", CVAT_SHAPES + CVAT_LEFT_OUT))
    save(tmp_path / "images" / "a.png")
    half = 10 * math.sqrt(2)
    for source in (tmp_path, f"cvat:{tmp_path}", file, f"cvat:{file}"):
        dataset = open_dataset(source, "train", details=True)
        assert rows(dataset) == [
            ("dog", (10, 20, 30, 40), False),
            ("dog", (30, 30, 20, 40), False),
            ("dog", tuple(round(v, 3) for v in (60 - half, 60 - half, 2 * half, 2 * half)), False),
            ("cat", (10, 10, 40, 30), False),
            ("cat", (90, 30, 20, 40), False),
            ("cat", (150, 30, 3, 2), False),
        ]
        assert dataset.classes.to_json() == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    turned, mask = dataset.annotations[1][2], dataset.annotations[1][5]
    assert math.isclose(turned.area, 400) and mask.area == 3
    decoded = decode_mask(mask.segmentation, 100, 200)
    assert decoded is not None and {*zip(*np.nonzero(decoded), strict=True)} == {
        (30, 151),
        (30, 152),
        (31, 152),
    }
    found = kinds(tmp_path)
    assert [r.rsplit(" encloses")[0] for r in found["unused-shape"]][:3] == [
        "'a.png': polyline 7 'dog'",
        "'a.png': points 8 'dog'",
        "'a.png': tag 9 'dog'",
    ]
    assert "'a.png': mask 10 'cat' has no pixel" in found["unused-shape"]
    assert len(found["bad-box"]) == 3 and len(found["rotated-box"]) == 1


def test_cvat_masks_are_cut_to_their_image(tmp_path: Path) -> None:
    shape = '<mask label="cat" rle="0, 12" left="198" top="-1" width="4" height="3"/>'
    write_cvat(tmp_path / "annotations.xml", cvat_image(0, "a.png", shape))
    save(tmp_path / "a.png")
    (found,) = open_dataset(tmp_path, "train", details=True).annotations[1]
    decoded = decode_mask(found.segmentation, 100, 200)
    assert decoded is not None and decoded.sum() == 4 and decoded[:2, 198:].all()


def test_cvat_subsets_are_splits(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="10" ytl="20" xbr="40" ybr="60"/>'
    images = [("Train", "a.png"), ("Train", "b.png"), ("Validation", "a.png")]
    pages = [cvat_image(i, name, box, subset) for i, (subset, name) in enumerate(images)]
    write_cvat(tmp_path / "annotations.xml", *pages)
    for seed, (subset, name) in enumerate(images):
        save(tmp_path / "images" / subset / name, seed)
    assert splits_of(tmp_path) == ("Train", "Validation")
    assert [i.path.parent.name for i in open_dataset(tmp_path, "val").images] == ["Validation"]
    assert len(open_dataset(tmp_path, "train")) == 2
    assert check(tmp_path).count("error") == 0


def test_cvat_files_of_several_tasks(tmp_path: Path) -> None:
    box = '<box label="{}" xtl="10" ytl="20" xbr="40" ybr="60"/>'
    for name, label in (("one", "dog"), ("two", "cat")):
        write_cvat(tmp_path / f"{name}.xml", cvat_image(0, f"{name}.png", box.format(label)), labels="")
        save(tmp_path / f"{name}.png", seed=len(label))
    dataset = open_dataset(tmp_path, "train")
    assert [row[0] for row in rows(dataset)] == ["dog", "cat"] and dataset.classes.names == ("cat", "dog")
    (tmp_path / "one.xml").rename(tmp_path / "train.xml")
    (tmp_path / "two.xml").rename(tmp_path / "val.xml")
    assert splits_of(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "val").classes.names == ("cat", "dog")


BOMB = (
    "<!DOCTYPE a [<!ENTITY x '"
    + "y" * 1000
    + "'>"
    + "".join(f"<!ENTITY x{i} '{'&x' + str(i - 1) + ';' if i else '&x;'}{'&x;' * 9}'>" for i in range(9))
    + "]>"
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("doctype", [BOMB, EXTERNAL])
def test_cvat_entities_are_refused(doctype: str, tmp_path: Path) -> None:
    write_cvat(tmp_path / "a.xml", cvat_image(0, "&x;.png", ""), doctype=doctype)
    with pytest.raises(
        UserError, match=r"a\.xml: not valid XML \(a document type declaration is not allowed"
    ):
        open_dataset(f"cvat:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations>", r"a\.xml: not valid XML"),
        ("<annotations><track id='0' label='dog'><box frame='0'/></track></annotations>", "CVAT for video"),
        ("<annotations>" + cvat_image(0, "", "") + "</annotations>", "image 1: its name is ''"),
        ("<annotations>" + cvat_image(0, "a.png", "<box/>") + "</annotations>", "box 1: expected a label"),
        ("<annotations>" + "<a>" * 100_000, r"a\.xml: not valid XML"),
        ("<annotations/>", "not CVAT for images: neither <image> nor <track>"),
        ("<annotation><object/></annotation>", "not CVAT for images: .* as in VOC's files .* voc:DIR"),
        ("<x>" + cvat_image(0, "a.png", "") + "</x>", "not CVAT for images: the root is <x>"),
        (
            "<annotations>" + cvat_image(0, "../../secret.png", "") + "</annotations>",
            "outside of the dataset",
        ),
        ("<annotations>" + cvat_image(0, "/etc/passwd", "") + "</annotations>", "outside of the dataset"),
        ("<annotations>" + cvat_image(0, "secret.png", "", "../..") + "</annotations>", None),
    ],
)
def test_broken_cvat_files_are_named(text: str, message: str | None, tmp_path: Path) -> None:
    save(tmp_path / "secret.png")
    folder = tmp_path / "x" / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "a.xml").write_text(text)
    if message is None:  # the subset ../.. is no folder to look into
        assert not open_dataset(folder / "a.xml", "..").images[0].path.exists()
        return
    with pytest.raises(UserError, match=message):
        open_dataset(folder / "a.xml", "train")


# Label Studio


PERCENT = {"x": 10, "y": 20, "width": 20, "height": 50, "rotation": 0}
TRIANGLE = {"points": [[10, 20], [30, 20], [10, 60]], "closed": True}


def test_label_studio_regions_become_boxes(tmp_path: Path) -> None:
    result = [
        region("rectanglelabels", PERCENT),
        region("rectanglelabels", {**PERCENT, "x": 50, "rotation": 90}, ["dog", "cat"]),
        region("rectanglelabels", {**PERCENT, "x": 50, "rotation": 30}),
        region("polygonlabels", TRIANGLE, "cat"),
        region("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10, "rotation": 0}),
        {**region("rectangle", PERCENT), "id": "q", "value": PERCENT},
        {**region("labels", PERCENT, "cow"), "id": "q"},
        region("brushlabels", {"format": "rle", "rle": [0, 1]}),
        region("keypointlabels", {"x": 1, "y": 1, "width": 1}),
        region("rectanglelabels", PERCENT, []),
        region("rectanglelabels", PERCENT, image_rotation=90),
        region("rectanglelabels", {**PERCENT, "x": "y"}),
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    file = write_tasks(
        tmp_path / "project-1-at-2024-01-01.json", task("/data/upload/1/90fbb0c7-a.png", annotation(*result))
    )
    save(tmp_path / "images" / "90fbb0c7-a.png")
    cos, sin = math.cos(math.radians(30)), 0.5
    turned = (100 - 50 * sin, 20, 40 * cos + 50 * sin, 40 * sin + 50 * cos)
    for source in (tmp_path, f"labelstudio:{tmp_path}", file, f"labelstudio:{file}"):
        dataset = open_dataset(source, "train", details=True)
        assert rows(dataset) == [
            ("dog", (20, 20, 40, 50), False),
            ("dog", (50, 20, 50, 40), False),
            ("cat", (50, 20, 50, 40), False),
            ("dog", tuple(round(v, 3) for v in turned), False),
            ("cat", (20, 20, 40, 40), False),
            ("dog", (80, 40, 40, 20), False),
            ("cow", (20, 20, 40, 50), False),
        ]
        assert dataset.classes.names == ("cat", "cow", "dog") and dataset.classes.ids == (1, 2, 3)
    found = kinds(tmp_path)
    assert len(found["unused-shape"]) == 4 and len(found["bad-box"]) == 1 and len(found["rotated-box"]) == 1
    assert "task 0: region 7 is of type 'brushlabels'" in found["unused-shape"][0]


def test_label_studio_takes_one_annotation_of_a_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (region("rectanglelabels", {**PERCENT, "x": x}) for x in (0, 50))
    cancelled = annotation(two, number=3, was_cancelled=True)
    write_tasks(
        tmp_path / "tasks.json",
        task("a.png", annotation(one), annotation(two, number=2), cancelled),
        task("b.png", annotation(one, ground_truth=True), annotation(two, number=2)),
        task("c.png", cancelled),
        task("d.png"),
    )
    for seed, name in enumerate("abcd"):
        save(tmp_path / f"{name}.png", seed)
    with caplog.at_level("INFO"):
        dataset = open_dataset(tmp_path, "train")
    assert [row[1][0] for row in rows(dataset)] == [100, 0] and len(dataset) == 2
    assert "4 x unused-annotation (such as tasks.json)" in caplog.text
    assert kinds(tmp_path)["unused-annotation"] == [
        "task 0 (a.png): annotation 3 was cancelled",
        "task 0 (a.png): annotation 1 is another version, 2 is used",
        "task 1 (b.png): annotation 2 is another version, 1 is used",
        "task 2 (c.png): annotation 3 was cancelled",
    ]


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("/data/upload/4/2a3b4c5d-my%20photo.png", "2a3b4c5d-my photo.png"),
        ("/data/upload/4/2a3b4c5d-a.png", "images/a.png"),  # the file before it was uploaded
        ("/data/local-files/?d=shots/a.png", "shots/a.png"),
        ("s3://bucket/deep/a.png", "deep/a.png"),
        ("https://host/deep/a.png?token=1", "a.png"),
        ("https://host/deep/a.png?d=1", "a.png"),
        ("/data/upload/4/a.png?token=1", "a.png"),
        ("/data/upload/4/a.png?token=b.png", "a.png"),
        ("why?.png", "why?.png"),
    ],
)
def test_label_studio_images_are_found(image: str, file: str, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks.json", task(image, annotation(region("rectanglelabels", PERCENT))))
    save(tmp_path / file)
    assert open_dataset(tmp_path, "train").images[0].path == tmp_path / file


def test_label_studio_splits_share_their_classes(tmp_path: Path) -> None:
    for name, label in (("train", "zebra"), ("val", "ant")):
        write_tasks(
            tmp_path / f"{name}.json",
            task(f"{name}.png", annotation(region("rectanglelabels", PERCENT, label))),
        )
        save(tmp_path / f"{name}.png")
    assert splits_of(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "train").annotations[1][0].category_id == 2
    (tmp_path / "val.json").rename(tmp_path / "other.json")
    with pytest.raises(
        UserError, match=r"the export may be other\.json or train\.json; name them train, val"
    ):
        open_dataset(f"labelstudio:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 1}, "expected Label Studio's list of tasks"),
        ([{"image": "a.png", "rectanglelabels": [1]}], "task 0: expected a list 'annotations' .*JSON-MIN"),
        ([task("a.png"), 7], "task 1: expected a list 'annotations'"),
        ([{"annotations": [], "data": {"text": "hello"}}], "task 0: no image is named in 'data'"),
        ([task("../../secret.png", annotation())], "outside of the dataset"),
        ([task("/data/local-files/?d=../../secret.png", annotation())], "outside of the dataset"),
        ([task("a.png", {"id": 1, "result": {"a": 1}})], "task 0 .a.png.: expected a list 'result'"),
    ],
)
def test_broken_label_studio_files_are_named(tree: Any, message: str, tmp_path: Path) -> None:
    save(tmp_path / "secret.png")
    folder = tmp_path / "x" / "set"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=rf"a\.json: .*{message}"):
        open_dataset(f"labelstudio:{folder / 'a.json'}", "train")


# CrowdHuman


def write_crowdhuman(folder: Path) -> Path:
    (folder / "annotation_train.odgt").write_text(
        crowdhuman_line(
            "273271,c9db000d5146c15",
            person([10, 20, 30, 40]),
            person([-10, 5, 30, 40], ignore=1),
            person([60, 10, 50, 50], "mask", None),
        )
        + crowdhuman_line("27", person([1, 2, 30, 40]))
    )
    (folder / "annotation_val.odgt").write_text(crowdhuman_line("31", person([1, 2, 30, 40])))
    for seed, name in enumerate(("273271,c9db000d5146c15", "27", "31")):
        save(folder / "Images" / f"{name}.jpg", seed)
    return folder


def test_crowdhuman_full_boxes_and_crowds(tmp_path: Path) -> None:
    write_crowdhuman(tmp_path)
    assert splits_of(tmp_path) == ("train", "val")
    for source in (tmp_path, f"crowdhuman:{tmp_path}", tmp_path / "annotation_train.odgt"):
        dataset = open_dataset(source, "train")
        assert rows(dataset) == [
            ("person", (10, 20, 30, 40), False),
            ("person", (0, 5, 20, 40), True),
            ("person", (60, 10, 50, 50), True),
            ("person", (1, 2, 30, 40), False),
        ]
    assert dataset.annotations[1][1].declared_xywh == (-10, 5, 30, 40)
    assert check(tmp_path).count("error") == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: nested too deeply"),
        ('{"ID": 7}', "line 2: expected an 'ID'"),
        ('{"ID": "27"}', "line 2: expected an 'ID' and a list 'gtboxes'"),
        ('{"ID": "27", "gtboxes": [{"fbox": [1, 2, 3, 4]}]}', r"gtboxes\[0\]: expected a box with a 'tag'"),
        (
            '{"ID": "27", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, 4], "extra": {"ignore": 5}}]}',
            "ignore is 5",
        ),
        ('{"ID": "../../secret", "gtboxes": []}', "outside of the dataset"),
    ],
)
def test_broken_crowdhuman_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    save(tmp_path / "secret.jpg")
    folder = tmp_path / "x" / "set"
    folder.mkdir(parents=True)
    write_crowdhuman(folder)
    (folder / "annotation_train.odgt").write_text(crowdhuman_line("27") + line)
    with pytest.raises(UserError, match=rf"annotation_train\.odgt: .*{message}"):
        open_dataset(folder, "train")


def test_names_that_no_file_system_has_are_missing_files(tmp_path: Path) -> None:
    write_crowdhuman(tmp_path)
    (tmp_path / "annotation_train.odgt").write_text(crowdhuman_line("x" * 4000))
    write_tasks(tmp_path / "tasks" / "a.json", task("/data/2a3b4c5d-" + "x" * 4000 + ".png", annotation()))
    write_labelme(tmp_path / "labelme" / "a.json", [], "../" + "x" * 4000)
    for source in (f"crowdhuman:{tmp_path}", tmp_path / "tasks", f"labelme:{tmp_path / 'labelme'}"):
        assert len(kinds(source)["missing-image"]) == 1


def test_a_box_that_is_none_is_counted_with_its_line(tmp_path: Path) -> None:
    write_crowdhuman(tmp_path)
    bad = {"tag": "person", "vbox": [1, 2, 3, 4]}
    (tmp_path / "annotation_train.odgt").write_text(crowdhuman_line("27", bad))
    assert kinds(tmp_path)["bad-box"] == ["line 1: gtboxes[0]: fbox is None, not four finite numbers"]


# All of them


@pytest.fixture(params=["labelme", "cvat", "labelstudio", "crowdhuman"])
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of four images without splits, with an object on each but the last."""
    folder, names = tmp_path / "set", ["a", "b", "c", "d"]
    folder.mkdir()
    if request.param == "labelme":
        for name in names:
            write_labelme(folder / f"{name}.json", [labelme_shape("person", BOX)] * (name != "d"))
    elif request.param == "cvat":
        box = '<box label="person" xtl="10" ytl="20" xbr="40" ybr="60"/>'
        pages = [cvat_image(i, f"{name}.png", box * (name != "d")) for i, name in enumerate(names)]
        write_cvat(folder / "annotations.xml", *pages, labels="<label><name>person</name></label>")
    elif request.param == "labelstudio":
        box = region("rectanglelabels", {"x": 5, "y": 20, "width": 15, "height": 40}, "person")
        write_tasks(folder / "x.json", *(task(f"{n}.png", annotation(*[box] * (n != "d"))) for n in names))
    else:
        lines = [crowdhuman_line(name, *[person([10, 20, 30, 40])] * (name != "d")) for name in names]
        (folder / "all.odgt").write_text("".join(lines))
    for seed, name in enumerate(names):
        save(folder / f"{name}.png", seed)
    return folder


def test_tools_convert_to_coco_and_back(tool: Path, tmp_path: Path) -> None:
    convert_dataset(tool, tmp_path / "out")
    ((split,),) = [splits_of(tmp_path / "out")]
    again = open_dataset(tmp_path / "out", split)
    assert rows(again) == rows(open_dataset(tool, split)) == [("person", (10, 20, 30, 40), False)] * 3
    assert check(tmp_path / "out").count("error") == 0 and len(again) == 4


def test_tools_without_splits_are_cut_into_splits(tool: Path, tmp_path: Path) -> None:
    split = splits_of(tool)[0]
    parts = cut_subset(
        tool, ["person"], tmp_path / "out", Counts(2, 1), Counts(1), split="train" if split == "*" else split
    )
    assert {name: len(part) for name, part in parts.items()} == {"train": 3, "val": 1}
    assert splits_of(tmp_path / "out") == ("train", "val")
