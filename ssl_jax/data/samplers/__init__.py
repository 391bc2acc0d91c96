"""Samplers: which rows of the data set make a batch.

A sampler is a pure function of the seed and the step, so that a run that is resumed sees the same batches and nothing
has to be stored. It returns row numbers, int32 `[n, ...]`, by the name of a part of the batch. The first axis of a part
is spread over the devices; what further axes hold, the frames of a clip or the images of an episode, stays together on
one device. A batch of one part has no names: the part is called "".
"""

from ssl_jax.data.samplers.classes import Episodes, PerClass
from ssl_jax.data.samplers.clips import Clips
from ssl_jax.data.samplers.images import Joined, Shuffled
from ssl_jax.data.samplers.sampler import Indices, Sampler, check, each, single
from ssl_jax.data.samplers.tasks import TaskSequence, task_end

__all__ = [
    "Clips",
    "Episodes",
    "Indices",
    "Joined",
    "PerClass",
    "Sampler",
    "Shuffled",
    "TaskSequence",
    "check",
    "each",
    "single",
    "task_end",
]
