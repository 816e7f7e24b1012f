"""Build the datasets, model and loader of a training run from its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from detrscope import families
from detrscope.checkpoints.load import load_backbone_checkpoint, load_model, load_random_model
from detrscope.checkpoints.mask_head import load_with_mask_head, predicts_masks
from detrscope.checkpoints.native import Loaded
from detrscope.config import config_to_tree, merge_configs
from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.model_card import ModelCard
from detrscope.data.batch_draw import BatchDraws
from detrscope.data.dataset import DetectionDataset, TransformedDataset
from detrscope.data.loader import DetectionLoader, make_loader
from detrscope.data.object_masks import ObjectMasks
from detrscope.data.open_dataset import open_dataset
from detrscope.data.transforms import TrainTransform
from detrscope.evaluation.class_matching import match_classes
from detrscope.training.config import DataConfig, RunConfig, nest_run_config, resolve_training_config
from detrscope.training.run_folder import RunFolder, refuse_changes


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
    """Return the settings that `train` would use. With `resume`, those of that run, of which few may change.

    Raises:
        UserError: a key is unknown, a value is not valid, or a setting of a resumed run may not change.
    """
    given = nest_run_config(overrides or {})
    if data is not None:
        given = merge_configs(given, {"data": {"source": str(data)}})
    if probe_images is not None:
        given = merge_configs({"train": {"recording": {"count": 0}}}, given)  # all images, also with a preset
        given = merge_configs(given, {"train": {"recording": {"images": str(probe_images)}}})
    if from_ is not None:
        own = [key for key in given.get("model", {}) if key != "mask_head"]
        if own:
            raise UserError(f"from_=MODEL brings its own model: leave out model.{', model.'.join(own)}")
        given["model"] = {
            **given.get("model", {}),
            "start_from": str(Path(from_).resolve()) if Path(from_).exists() else str(from_),
        }
    saved = resume.config() if resume else None
    base, file = (config, None) if isinstance(config, RunConfig) else (saved, config)
    resolved = resolve_training_config(preset, file, given, base=base)
    if saved and resume:
        if resolved.train.precision == "auto":
            resolved = replace(resolved, train=replace(resolved.train, precision=saved.train.precision))
        refuse_changes(saved, resolved, resume.path)
    return resolved


def open_training_data(config: RunConfig) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Open the images to learn from and those to evaluate on; None where evaluation is off.

    Masks are read where the model learns them.

    Raises:
        UserError: they cannot be read, no image has boxes, or the classes do not agree.
    """
    data, masks = config.data, learns_masks(config)
    dataset = open_dataset(data.source, data.train_split, skip_unreadable=data.tolerant, details=masks)
    _log_dataset("training", dataset)
    if all(a.iscrowd for rows in dataset.annotations.values() for a in rows):
        raise UserError(
            f"{dataset.name}: no boxes in any of its {len(dataset)} images: expected at least one training box"
        )
    if data.val_split is None:
        return dataset, None
    source = data.val_source or data.source
    val = open_dataset(source, data.val_split, skip_unreadable=data.tolerant, details=masks)
    _log_dataset("validation", val)
    _same_classes(dataset, val)
    shared = {image.path.resolve() for image in dataset.images} & {
        image.path.resolve() for image in val.images
    }
    if shared:
        log.warning(
            "%d of %d validation images are training images: AP will be too high", len(shared), len(val)
        )
    return dataset, val


def learns_masks(config: RunConfig) -> bool:
    """Return whether the model of a run has a mask head."""
    choice = config.model
    if choice.mask_head != "none":
        return True
    if choice.start_from and not choice.overrides:
        return predicts_masks(choice.start_from)
    settings = config_to_tree(families.resolve_variant(choice.variant, choice.overrides))
    return bool(settings.get("mask_head", "none") != "none")


def make_training_model(
    config: RunConfig, dataset: DetectionDataset, *, fresh: bool, saved: ModelCard | None = None
) -> tuple[Loaded, RunConfig]:
    """Make the model that training starts from, and fill in the settings that `start_from` brings.

    Args:
        config: the settings.
        dataset: the classes.
        fresh: load pretrained weights; off where a training state will replace them.
        saved: the card of the run that is resumed.

    Raises:
        UserError: weights that cannot be read or do not fit, or random ones that would be frozen; a cost of masks of a
            model that has none at points.
    """
    choice = config.model
    if choice.start_from and fresh:
        loaded = load_model(choice.start_from, classes=dataset.classes)
        loaded = load_with_mask_head(loaded, choice.mask_head)
        card = loaded.card
        config = _keep_square(config, card)
        sized = card.preprocessing.with_resize_of(config.data.preprocessing)
        source = f"fine-tuned from {loaded.report.source}"
        loaded = replace(loaded, card=replace(card, preprocessing=sized, source=source))
        # A card may name the family only; any of its variants with all settings given is the same model.
        known = card.variant in families.VARIANTS
        variant = card.variant if known else families.FAMILIES[card.family].variants[0].name
        config = replace(config, model=replace(choice, variant=variant, overrides=card.config))
        reports = [loaded.report]
    else:
        if fresh and config.train.train_only:
            raise UserError(
                "train.train_only: all but a part of a model of random weights would be frozen; give the trained model"
                " to start from (from_=MODEL)"
            )
        if choice.mask_head != "none":
            choice = replace(choice, overrides={**choice.overrides, "mask_head": choice.mask_head})
            config = replace(config, model=choice)
        own = families.VARIANTS[
            choice.variant
        ].preprocessing  # whose mean and deviation are the architecture's
        loaded = load_random_model(
            choice.variant, choice.overrides, dataset.classes, own.with_resize_of(config.data.preprocessing)
        )
        if saved is not None:  # keep the mean and deviation of a model given with --from
            preprocessing = saved.preprocessing.with_resize_of(config.data.preprocessing)
            loaded = replace(loaded, card=replace(loaded.card, preprocessing=preprocessing))
        wanted = fresh and choice.backbone_weights != "none"
        reports = [load_backbone_checkpoint(loaded.model, choice.backbone_weights)] if wanted else []
    for report in reports:
        for line in report.lines():
            log.info("%s", line)
    cost = config.train.cost
    if (cost.mask or cost.dice) and loaded.card.config.get("mask_head") != "dot-product":
        raise UserError(
            "train.cost.mask, train.cost.dice: expected 0, as the model has no dot-product mask head"
        )
    return loaded, config


def _keep_square(config: RunConfig, card: ModelCard) -> RunConfig:
    """Keep the square images of a model that is fine-tuned, unless the settings name a size."""
    sizes = ("short_side", "long_side", "square")
    named = any(getattr(config.data, name) != getattr(DataConfig(), name) for name in sizes)
    box = card.preprocessing.box
    if named or card.preprocessing.fit != "exact" or box is None or box[0] != box[1]:
        return config
    log.info("images are stretched to %d x %d pixels, as the model's; data.square sets another size", *box)
    return replace(config, data=replace(config.data, square=box[0]))


def make_training_loader(
    config: RunConfig, dataset: DetectionDataset, card: ModelCard, fabric: Fabric
) -> DetectionLoader:
    """Make the loader of this process: augmented images in the order that the seed gives.

    Raises:
        UserError: the model has a mask head and no object has a mask, or the dataset does not fit into memory.
    """
    augment, square = config.augment, config.data.square is not None
    transform = TrainTransform(augment, card.preprocessing)
    masks = ObjectMasks(dataset) if card.has_masks else None
    draws = BatchDraws(augment.sizes if square else (), augment.stop_epoch)
    return make_loader(
        TransformedDataset(dataset, transform, config.data.cache, augment.mixing, masks),
        config.images_per_micro_batch,
        shuffle=True,
        workers=config.data.workers,
        seed=config.train.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
        draws=draws if square or augment.stop_epoch is not None else None,
    )


def _same_classes(dataset: DetectionDataset, val: DetectionDataset) -> None:
    """Refuse validation boxes of classes that the training set does not have."""
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


def warn_of_crowded_images(config: RunConfig, dataset: DetectionDataset) -> None:
    """Warn of images with more objects than the model has queries."""
    queries = families.family_query_count(config.model.variant, config.model.overrides)
    counts = {i.id: sum(not a.iscrowd for a in dataset.annotations[i.id]) for i in dataset.images}
    crowded = [i for i in dataset.images if counts[i.id] > queries]
    if crowded:
        worst = max(crowded, key=lambda image: counts[image.id])
        log.warning(
            "%d images have more boxes than the model's %d queries, such as %s with %d: the excess cannot be"
            " detected; raise model.overrides.queries",
            len(crowded),
            queries,
            worst.path.name,
            counts[worst.id],
        )
