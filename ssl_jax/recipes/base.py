"""Every field of a config, with its unit and its default.

Fields of a method are those of its class in `ssl_jax/methods/`, where each is commented with the paper's section. What
a data set changes is on its card (`cards.py`), what a paper changes in the method's recipes.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from ml_collections import ConfigDict, config_dict

from ssl_jax.augment.view import View
from ssl_jax.data.reading import MOST_PIXELS
from ssl_jax.methods import build
from ssl_jax.runtime.errors import UserError


def fields() -> ConfigDict:
    """Returns a config of all fields but the method's own, each at its default."""
    config = ConfigDict()
    config.seed = 0  # of weights, order of images and augmentation
    config.init_from = config_dict.placeholder(str)  # workdir or file whose backbone training starts from; None: anew
    config.epochs = 100  # passes over the training images
    config.batch_size = 256  # images an update, over all devices; views are not counted
    config.accumulate = 1  # micro-batches an update is split into, to save memory
    # What a loss that compares embeddings (simclr, dcl, barlow_twins, vicreg) compares: those of each 'micro'-batch by
    # itself, or those of the 'whole' batch, for which every image goes through the network once more.
    config.accumulate_loss = "micro"
    config.mapping = "shard_map"  # how the step is mapped over devices, or 'pmap'
    # Devices along each axis; -1: all that are left. The batch is split over all of them, parameters over 'fsdp'.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})

    config.data = _data()
    config.model = _model()
    config.optim = ConfigDict({"default": optimizer()})  # of each group of parameters
    config.probe = ConfigDict()
    config.probe.learning_rate = 1e-3  # of the online linear probe (Adam)

    config.eval = ConfigDict()
    config.eval.knn_k = 200  # neighbours that vote
    config.eval.knn_temperature = 0.1  # of their weights exp(cosine / T)
    config.eval.linear_epochs = 90  # of the offline linear probe
    config.eval.linear_batch = 256  # images an update of the offline linear probe
    config.eval.draws = 5  # draws of the labelled images in the few-label table

    config.run = ConfigDict()  # these may change when a run is resumed
    config.run.steps_per_call = 1  # updates of one call of the device; more where the host is slower than the step
    config.run.log_steps = 10  # updates between log entries
    config.run.loggers = "tensorboard"  # trackers beside metrics.jsonl, with commas: tensorboard, wandb, mlflow
    config.run.eval_epochs = 5.0  # epochs between online evaluations; 0: none
    config.run.eval_images = 10_000  # most images of each split that they use
    config.run.save_epochs = 5.0  # epochs between checkpoints; 0: only the last
    config.run.keep = 3  # newest checkpoints kept
    config.run.stop_epoch = config_dict.placeholder(int)  # end here, on the schedule of `epochs`; None: at the last
    return config


def _data() -> ConfigDict:
    """The images."""
    config = ConfigDict()
    config.source = ""  # a file of ssl_jax/data/sources: digits, folder:PATH, tfds:NAME, ...; several: with commas
    config.target = config_dict.placeholder(str)  # source of the domain to adapt to, trained on without its labels
    config.target_labels = 0  # training images of each class of the target whose labels are known all the same
    config.path = config_dict.placeholder(str)  # where the files of a source lie that does not say so itself
    config.size = config_dict.placeholder(int)  # stored side, pixels: short side to it, centre crop; None: as is
    config.channels = config_dict.placeholder(tuple)  # numbers of those taken, from 0; None: grey or colour
    config.range = config_dict.placeholder(tuple)  # of deeper pixels than bytes, to 0 and 255; None: as images say
    config.pages = "first"  # of files with several pages; all: each is an image; channels: those of a TIFF are
    config.max_pixels = MOST_PIXELS  # a larger image counts as unreadable
    config.image = config_dict.placeholder(str)  # feature of a tfds data set with several; None: the only one
    config.label = config_dict.placeholder(str)  # likewise; None: 'label', or the only one with classes
    config.labels = config_dict.placeholder(str)  # CSV file: file name, label; None: classes are folders
    config.per_class = config_dict.placeholder(int)  # first n training images of each class; None: all
    config.holdout = 0.1  # share of each class to measure on where a source has no test images; not trained on
    config.holdout_seed = 0  # of which images these are, and of `target_labels`: the same for all methods and seeds
    config.label_noise = 0.0  # share of the training labels that are replaced by another class, drawn once
    config.max_gib = 8.0  # largest split to hold in memory, GiB
    config.stream = "auto"  # decode images as needed: always, never, or auto: if too large or of several sizes
    config.workers = config_dict.placeholder(int)  # processes that do; 0: threads; None: one a core if over 4
    config.eval_centre = 1.0  # share of the short side that evaluation keeps (SimCLR on ImageNet: 0.875)
    return config


def _model() -> ConfigDict:
    """The backbone."""
    config = ConfigDict()
    # convnet, conv4, lenet, mlp, resnet18, 34, 50, 101, 152, 200, vit_micro, tiny, small, base, large, huge, giant
    config.name = "resnet18"
    config.width = 64  # channels of the first stage; 128 is "2x"
    config.stem = "small"  # small (3x3), small_linear (without ReLU) or imagenet (7x7 stride 2, max-pool)
    config.norm = "batch"  # batch, group, layer, none
    config.bn_groups = 1  # BatchNorm groups of the global batch; 1: statistics of all of it
    config.zero_init = False  # last scale of each residual block starts at zero
    config.output_stride = 0  # of a ResNet's map, pixels: its last stages dilate instead of stride; 0: its own, 8 or 32
    config.conv_init = "kaiming"  # how convolutions start: kaiming (torchvision), torch (its default) or dcgan
    config.patch = 16  # side of a ViT's patches, pixels; this and the following are of a ViT alone
    config.heads = 0  # of the attention; 0: the size's own (3, 6, 12, 16, 16, 24)
    config.positions = "learned"  # learned (DINO) or sincos (fixed: MoCo v3, MAE)
    config.vit_init = "dino"  # how weights start: dino, dinov2, dinov3, mocov3, mae or capi
    config.ffn = ""  # feed-forward network: mlp or swiglu; "": the size's own (swiglu for vit_giant)
    config.registers = 0  # tokens beside the class token that are thrown away at the end
    config.layer_scale = 0.0  # start of LayerScale's factors (1e-5 in DINOv2); 0: there are none
    config.scan = False  # compile one block and run it in a loop, instead of all blocks one after the other
    config.fixed_patch = False  # leave the projection of patches as it starts (MoCo v3)
    config.remat = 0  # first stages (of 4) whose blocks are computed anew in the backward pass, to save memory
    config.dtype = "float32"  # computed in; bfloat16: mixed precision, with parameters and losses in float32
    return config


def method_fields(name: str, **changes: Any) -> ConfigDict:
    """The fields of a method's class with their defaults, as a config.

    Args:
      name: of the method.
      **changes: field to another value.
    """
    fields = {f.name: f.default for f in dataclasses.fields(build.find(name)) if f.name != "backbone"}
    return update(ConfigDict({"name": name}), **(fields | changes))


def update(config: ConfigDict, **changes: Any) -> ConfigDict:
    """Sets fields of a config in place; a `View` becomes a nested config, whose fields the command line can change."""
    for name, value in changes.items():
        if isinstance(value, View):
            config[name] = update(config.get(name, ConfigDict()), **dataclasses.asdict(value))
        else:
            config[name] = value
    return config


def optimizer(**changes: Any) -> ConfigDict:
    """One group's optimiser. Groups are what the method's `groups` names; most have only 'default'."""
    config = ConfigDict()
    config.name = "sgd"  # sgd, adam, adamw, lars, larc
    config.learning_rate = 0.1  # peak, before scaling
    config.scaling = "linear"  # linear: times batch / 256; sqrt: times sqrt(batch); none
    # cosine, cosine_4_5 (CAPI), cosine_7_16 (FixMatch), inverse (DANN: (1 + 10 p)^-.75), constant, steps
    config.schedule = "cosine"
    config.per_epoch = False  # move the rate once an epoch, not once an update
    config.final = 0.0  # last rate of the cosine, share of the peak
    config.milestones = ()  # epochs at which schedule='steps' multiplies by `factor`
    config.factor = 0.1  # of the rate, at each milestone
    config.warmup_epochs = 0.0  # linear from 0
    config.momentum = 0.9  # of sgd and lars
    config.nesterov = False  # of sgd
    config.b1 = 0.9  # of adam and adamw
    config.b2 = 0.999  # of adam and adamw
    config.weight_decay = 0.0  # decoupled for adamw, for all others part of the gradient
    config.weight_decay_final = config_dict.placeholder(float)  # reached by a cosine at the end; None: constant
    config.exclude = "none"  # from decay and trust ratio; 1d: biases and norms; norm: norms alone
    config.trust = 0.001  # trust coefficient of lars and larc
    config.trust_clip = False  # larc: never move further than plain SGD would
    config.lars_order = "inside"  # learning rate inside the momentum (SimCLR) or outside (BYOL)
    config.clip = 0.0  # largest norm of the group's gradient; 0: off
    config.clip_each = 0.0  # largest norm of the gradient of each parameter of the group; 0: off
    config.clip_parts = 0.0  # largest norm of the gradient of each part of the network (backbone, head); 0: off
    config.layer_decay = 1.0  # rate of a ViT's block, as a share of the next one's; of 'default', for all groups
    config.patch_rate = 1.0  # rate of a ViT's projection of patches, as a share of what layer_decay gives it; likewise
    config.hold_epochs = 0.0  # epochs for which the group's rate is 0, while its moments are gathered
    config.frozen_epochs = 0.0  # epochs for which the group does not move
    config.every = 1  # updates from one move of the group to the next: a critic moves more often than a generator
    return update(config, **changes)


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a config with other values in some fields.

    Args:
      config: what is copied.
      changes: full name of a field to its value, as {"data.size": 32}.

    Raises:
      UserError: there is no such field, or it cannot have that value.
    """
    if not changes:
        return config
    config = config.copy_and_resolve_references()
    for path, value in changes.items():
        *parts, name = path.split(".")
        part = functools.reduce(lambda level, key: level.get(key) if hasattr(level, "get") else None, parts, config)
        if not hasattr(part, "keys") or name not in part:
            raise UserError(f"There is no field config.{path}: `ssl_jax config METHOD:PRESET` lists them.")
        try:
            part[name] = value
        except TypeError as error:
            raise UserError(f"config.{path} cannot be {value!r}: {' '.join(str(error).split())}.") from error
    return config
