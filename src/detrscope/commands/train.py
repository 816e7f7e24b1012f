"""Train a detector: settings, devices, data and model are put together here; training/ does the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch import nn

from detrscope import families
from detrscope.checkpoints.load import Loaded, load_backbone, load_model, random_model
from detrscope.checkpoints.native import read_card
from detrscope.config import merge
from detrscope.console import log
from detrscope.core.errors import UserError, WorkFailed
from detrscope.core.model_card import ModelCard
from detrscope.data.dataset import DetectionDataset, TransformedDataset
from detrscope.data.loader import DetectionLoader, make_loader
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import train_transform
from detrscope.evaluation.class_matching import match_classes
from detrscope.evaluation.coco_ap import average_precision
from detrscope.evaluation.predict import predict_dataset
from detrscope.evaluation.tables import write_class_csv
from detrscope.ops.kernels.machine import DTYPES
from detrscope.ops.kernels.threads import use_threads
from detrscope.recording.recorder import make_watch
from detrscope.training.config import RunConfig, resolve, undotted
from detrscope.training.devices import make_fabric, same_precision, settle_devices, settle_precision
from detrscope.training.loop import Outcome, Scores, train_model
from detrscope.training.memory_estimate import check_memory
from detrscope.training.run_folder import CURVES, LAST, LOG, PER_CLASS, RunFolder, logged_to, refuse_changes
from detrscope.training.train_state import seed_all
from detrscope.training.train_step import check_learning
from detrscope.views.training_curves import draw_curves


def train(
    config: RunConfig | str | Path | None = None,
    *,
    preset: str | None = None,
    data: str | Path | None = None,
    out: str | Path = "run",
    from_: str | Path | None = None,
    probe_images: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train a detector and leave a run folder.

    Settings come from `preset`, then `config`, then the other arguments, then `overrides`, later ones winning.

    Args:
        config: settings, or a YAML file of them.
        preset: a shipped recipe, such as "detr-r50-coco".
        data: the dataset: coco:DIR, yolo:DIR, voc:DIR, a folder, or an annotation .json.
        out: the run folder.
        from_: fine-tune this model: a variant name, checkpoint, run folder, or Hugging Face id. Its weights
            only; the heads are reset where the classes differ.
        probe_images: pictures to look at while the model learns, for `timelapse`: a folder of them, or a dataset such
            as coco:DIR. All of them, unless `overrides` has `train.watch.pictures`.
        resume: continue the run in `out` as if it had not been interrupted.
        overwrite: replace a run that is in `out`.
        overrides: single settings, such as `{"train.epochs": 10}`.

    Returns:
        The folder, how far training came, and the best AP.

    Raises:
        UserError: wrong settings, data or model; a run folder in use.
        WorkFailed: a loss or gradient is NaN or infinite.
        KeyboardInterrupt: after Ctrl-C, with the checkpoint written.
    """
    folder = RunFolder(out)
    if resume and from_ is not None:
        raise UserError(
            "--resume continues a run and --from starts a new one from a model's weights: give one of them"
        )
    if resume and overwrite:
        raise UserError("--resume continues the run that --overwrite would remove: give one of them")
    if not resume:
        folder.refuse_if_in_use(overwrite)
    config = resolve_run(
        config,
        preset=preset,
        data=data,
        from_=from_,
        probe_images=probe_images,
        overrides=overrides,
        resume=folder if resume else None,
    )
    if not config.data.source:
        raise UserError("no dataset: give --data, such as --data coco:path/to/coco")
    config = settle_precision(settle_devices(config))
    use_threads(config.train.threads)
    fabric = make_fabric(config.train)
    fabric.launch()
    try:
        with folder.locked() if fabric.is_global_zero else nullcontext():
            return _train(config, folder, fabric, resume)
    except KeyboardInterrupt:
        if fabric.is_global_zero and folder.has_state:
            log.warning("interrupted; continue with: detrscope train --out %s --resume", folder.path)
        raise
    except (RuntimeError, OSError) as error:
        if fabric.world_size == 1 or isinstance(error, UserError | WorkFailed):
            raise
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise WorkFailed(
            f"process {fabric.global_rank} of {fabric.world_size}: another process of this training has ended or does"
            f" not answer ({reason}); look for its message, then continue with --resume"
        ) from None


def resolve_run(
    config: RunConfig | str | Path | None = None,
    *,
    preset: str | None = None,
    data: str | Path | None = None,
    from_: str | Path | None = None,
    probe_images: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: RunFolder | None = None,
) -> RunConfig:
    """The settings that `train` would use. With `resume`, those of that run, which few settings may change.

    Raises:
        UserError: an unknown key, a value that is not valid, or a change to a run that is being resumed.
    """
    given = undotted(overrides or {})
    if data is not None:
        given = merge(given, {"data": {"source": str(data)}})
    if probe_images is not None:
        given = merge({"train": {"watch": {"pictures": 0}}}, given)  # all of them, whatever a preset says
        given = merge(given, {"train": {"watch": {"images": str(probe_images)}}})
    if from_ is not None:
        if "model" in given:
            raise UserError(f"--from brings its own model: leave out model.{', model.'.join(given['model'])}")
        given["model"] = {"start_from": str(Path(from_).resolve()) if Path(from_).exists() else str(from_)}
    saved = resume.config() if resume else None
    base, file = (config, None) if isinstance(config, RunConfig) else (saved, config)
    resolved = resolve(preset, file, given, base=base)
    if saved and resume:
        if resolved.train.precision == "auto":
            resolved = replace(resolved, train=replace(resolved.train, precision=saved.train.precision))
        refuse_changes(saved, resolved, resume.path)
    return resolved


def _train(config: RunConfig, folder: RunFolder, fabric: Fabric, resume: bool) -> Outcome:
    """What every process does."""
    same_precision(config.train, fabric)
    dataset, val = open_data(config)
    seed_all(config.train.seed)  # the same first weights in every process
    if not config.model.start_from:
        check_memory(config, len(dataset.classes), fabric.device)
    going_on = resume and folder.has_state
    saved = read_card(folder / LAST) if going_on and (folder / LAST).exists() else None
    loaded, config = make_model(config, dataset, fresh=not going_on, saved=saved)
    _warn_of_crowds(config, dataset)
    loader = make_train_loader(config, dataset, loaded.card, fabric)
    check_learning(loaded.model, config.train)
    evaluate = None if val is None else _make_evaluate(config, loaded.card, val, folder, fabric)
    watch = make_watch(config, loaded, folder, dataset, val)
    if fabric.is_global_zero:  # all that can be wrong with the settings is known by now
        if not resume:
            folder.clear()
        folder.write_config(config)
    fabric.barrier()
    with logged_to(folder / LOG) if fabric.is_global_zero else nullcontext():
        precision = config.train.precision
        assert precision != "auto"
        return train_model(
            loaded.model,
            replace(loaded.card, precision=precision),
            loader,
            config.train,
            folder,
            fabric,
            evaluate=evaluate,
            after_epoch=[lambda path: draw_curves([path], path / CURVES)],
            watch=watch,
            name_of=lambda image_id: f"{image_id} ({dataset.image(image_id).path.name})",
            evaluation_passes=0 if val is None else -(-len(val) // config.images_per_pass),
        )


def open_data(config: RunConfig) -> tuple[DetectionDataset, DetectionDataset | None]:
    """The images to learn from and those to evaluate on.

    Raises:
        UserError: they cannot be read, there is nothing to learn from, or the classes do not agree.
    """
    data = config.data
    dataset = open_dataset(data.source, data.train_split, skip_unreadable=data.tolerant)
    _log_dataset("training", dataset)
    if all(a.iscrowd for rows in dataset.annotations.values() for a in rows):
        raise UserError(
            f"{dataset.name}: no boxes in any of its {len(dataset)} images: nothing to learn from"
        )
    if data.val_split is None:
        return dataset, None
    val = open_dataset(data.val_source or data.source, data.val_split, skip_unreadable=data.tolerant)
    _log_dataset("validation", val)
    _same_classes(dataset, val)
    shared = {image.path.resolve() for image in dataset.images} & {
        image.path.resolve() for image in val.images
    }
    if shared:
        log.warning("%d of %d validation images are training images: AP will flatter", len(shared), len(val))
    return dataset, val


def make_model(
    config: RunConfig, dataset: DetectionDataset, *, fresh: bool, saved: ModelCard | None = None
) -> tuple[Loaded, RunConfig]:
    """The model that training starts from, and the config with what `start_from` brings filled in.

    Args:
        config: the settings.
        dataset: tells the classes.
        fresh: load weights; off where a training state will bring them.
        saved: the card of the run that is resumed.
    """
    choice, size = config.model, config.data.preprocessing
    if choice.start_from and fresh:
        loaded = load_model(choice.start_from, classes=dataset.classes)
        card = loaded.card
        sized = card.preprocessing.with_sides(size.short_side, size.long_side)
        loaded = replace(loaded, card=replace(card, preprocessing=sized))
        # A card may name the family only; any of its variants with all settings given is the same model.
        known = card.variant in families.VARIANTS
        variant = card.variant if known else families.FAMILIES[card.family].variants[0].name
        config = replace(config, model=replace(choice, variant=variant, overrides=card.config))
        reports = [loaded.report]
    else:
        loaded = random_model(choice.variant, choice.overrides, dataset.classes, size)
        if saved is not None:  # what `--from` brought stays: the mean and deviation it was trained with
            kept = saved.preprocessing.with_sides(size.short_side, size.long_side)
            loaded = replace(loaded, card=replace(loaded.card, preprocessing=kept))
        wanted = fresh and choice.backbone_weights != "none"
        reports = [load_backbone(loaded.model, choice.backbone_weights)] if wanted else []
    for report in reports:
        for line in report.lines():
            log.info("%s", line)
    return loaded, config


def make_train_loader(
    config: RunConfig, dataset: DetectionDataset, card: ModelCard, fabric: Fabric
) -> DetectionLoader:
    """The batches of this process, augmented, in the order of the seed."""
    transform = train_transform(config.augment, card.preprocessing)
    return make_loader(
        TransformedDataset(dataset, transform, cache=config.data.cache),
        config.images_per_pass,
        shuffle=True,
        workers=config.data.workers,
        seed=config.train.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )


def _make_evaluate(
    config: RunConfig, card: ModelCard, val: DetectionDataset, folder: RunFolder, fabric: Fabric
) -> Callable[[nn.Module], Scores]:
    """AP on the validation images; the table of classes is left in the run folder."""
    ids = match_classes(card.classes, val.classes, needed=())
    truth = val.coco_json()
    precision = config.train.precision
    assert precision != "auto"

    def evaluate(model: nn.Module) -> Scores:
        found = predict_dataset(
            model,
            card,
            val,
            batch_size=config.images_per_pass,
            device=fabric.device,
            autocast=None if precision == "fp32" else DTYPES[precision],
            workers=config.data.workers,
        )
        results = [{**r, "category_id": ids[r["category_id"]]} for r in found if r["category_id"] in ids]
        evaluation = average_precision(truth, results)
        if fabric.is_global_zero:
            write_class_csv(folder / PER_CLASS, evaluation)
        return evaluation.summary()

    return evaluate


def _same_classes(dataset: DetectionDataset, val: DetectionDataset) -> None:
    """Refuse validation boxes of classes that the training set does not know."""
    with_boxes = {a.category_id for rows in val.annotations.values() for a in rows}
    match_classes(dataset.classes, val.classes, with_boxes)


def _log_dataset(what: str, dataset: DetectionDataset) -> None:
    objects = [[a for a in dataset.annotations[i.id] if not a.iscrowd] for i in dataset.images]
    counts = [len(rows) for rows in objects]
    classes = Counter(a.category_id for rows in objects for a in rows)
    names = zip(dataset.classes.ids, dataset.classes.names, strict=True)
    listed = [f"{name} {classes[category_id]}" for category_id, name in names][:12]
    more = f" and {len(dataset.classes) - 12} more classes" if len(dataset.classes) > 12 else ""
    log.info(
        "%s: %d images (%d without boxes), %d boxes (and %d crowds, not learned from), at most %d in an image: %s%s",
        what,
        len(counts),
        counts.count(0),
        sum(counts),
        sum(map(len, dataset.annotations.values())) - sum(counts),
        max(counts, default=0),
        ", ".join(listed),
        more,
    )


def _warn_of_crowds(config: RunConfig, dataset: DetectionDataset) -> None:
    """Say when an image has more objects than the model has queries to find them with."""
    queries = families.query_count(config.model.variant, config.model.overrides)
    counts = {i.id: sum(not a.iscrowd for a in dataset.annotations[i.id]) for i in dataset.images}
    crowded = [i for i in dataset.images if counts[i.id] > queries]
    if crowded:
        worst = max(crowded, key=lambda image: counts[image.id])
        log.warning(
            "%d images have more boxes than the model's %d queries, such as %s with %d: the rest can never be"
            " found; raise model.overrides.queries",
            len(crowded),
            queries,
            worst.path.name,
            counts[worst.id],
        )
