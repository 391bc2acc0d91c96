"""What measures are called for people: a name, which direction is good, and a definition."""

import re
from typing import NamedTuple

UP, DOWN = "↑", "↓"  # higher is better, lower is better


class Words(NamedTuple):
    """How a measure is told."""

    name: str
    better: str = ""  # UP, DOWN, or nothing where neither end is good by itself
    definition: str = ""

    @property
    def title(self) -> str:
        """The name with the direction."""
        return f"{self.name} {self.better}".rstrip()


GROUPS = {
    "health": "Health of the features",
    "knn": "Nearest neighbours",
    "linear": "Linear probe (SGD)",
    "linear_lbfgs": "Linear probe (L-BFGS)",
    "layers": "Linear probe of each stage",
    "few_label": "Few labels: logistic regression",
    "label_curve": "Share of the labels: logistic regression",
    "few_shot": "Few-shot episodes",
    "retrieval": "Retrieval",
    "verification": "Verification of pairs",
    "cluster": "Clustering (k-means)",
    "classifier": "The method's own classifier",
    "zero_shot": "Classes that were not seen",
    "adapt": "Adaptation to another domain",
    "forgetting": "A sequence of tasks",
    "adabn": "BatchNorm statistics of another domain",
    "pretext": "The method's own task, on test images",
    "segmentation": "Linear segmentation",
    "segmentation_heads": "Segmentation heads",
    "own_masks": "The method's own segmentation",
    "knn_segmentation": "Segmentation by nearest patches",
    "propagation": "Masks carried through videos",
    "depth": "Depth",
    "normals": "Surface normals",
    "boundaries": "Boundaries",
    "detection": "Detection (CenterNet)",
    "linear_published": "The authors' linear probe",
    "linear_layers": "Linear probe over layers (DINOv2)",
    "attentive": "Attentive probes",
    "ridge": "Few labels: ridge regression",
    "fine_tune": "Fine-tuning",
    "seconds": "Time of each evaluation, seconds",
}
# Patterns of whole measures; the first that fits counts. Groups of the pattern are filled in.
_MEASURES = {
    r"(?:health/)?feature_std": Words("spread", UP, "Standard deviation of the normalised features over images."),
    r"(?:health/)?feature_std_healthy": Words("spread of even features", "", "1/sqrt(d) for d features."),
    r"(?:health/)?rankme": Words("effective rank", UP, "RankMe: independent directions of the features; 1: collapse."),
    r"(?:health/)?dead_units": Words("dead units", DOWN, "Share of the features that are the same for all images."),
    r"(?:health/)?uniformity": Words("uniformity", DOWN, "How evenly features lie on the sphere."),
    r"health/alignment": Words("alignment", DOWN, "Squared distance of the features of two views of an image."),
    r"health/lidar": Words("LiDAR", UP, "Rank of the features between images, given that between views of an image."),
    r"health/rank/(\d)": Words("effective rank, stage {}", UP, "RankMe of the features after this stage."),
    r"knn/top1": Words("kNN accuracy", UP, "Weighted vote of the nearest training images."),
    r"linear(?:_lbfgs)?/top1": Words("accuracy", UP, "One linear layer on frozen features."),
    r"(?:linear|linear_lbfgs)/held_out_top1": Words("accuracy on held-out training images", UP),
    r"(?:linear|linear_lbfgs)/learning_rate": Words("chosen learning rate", "", "By accuracy on held-out images."),
    r"(?:linear|linear_lbfgs)/c": Words("chosen C", "", "Inverse of the penalty, by accuracy on held-out images."),
    r"(?:linear|linear_lbfgs)/at_edge": Words("choice at the edge of its grid"),
    r"layers/(\d)/top1": Words("accuracy, stage {}", UP, "Logistic regression on the pooled features of this stage."),
    r"layers/(\d)/held_out_top1": Words("accuracy on held-out training images, stage {}", UP),
    r"layers/(\d)/c": Words("chosen C, stage {}", "", "Inverse of the penalty, by accuracy on held-out images."),
    r"layers/(\d)/at_edge": Words("choice at the edge of its grid, stage {}"),
    r"few_label/1": Words("1 label per class", UP),
    r"few_label/(\d+)": Words("{} labels per class", UP),
    r"few_label/all": Words("all labels", UP),
    r"label_curve/([\d.]+)/top1": Words("{} % of the labels", UP),
    r"fine_tune/([\d.]+)/top1": Words("{} % of the labels", UP),
    r"fine_tune/(frozen|tuned)(\d)/top1": Words("first {1} stages copied, {0}", UP),
    r"few_shot/(\d+)way_(\d+)shot/(\w+)": Words("{}-way {}-shot, {}", UP),
    r"retrieval/map": Words("mean average precision", UP),
    r"retrieval/map@r": Words("mean average precision at R", UP, "Of the first R; R images are of the query's class."),
    r"retrieval/r_precision": Words("R-precision", UP, "Share of the query's class among the first R."),
    r"verification/accuracy": Words("accuracy", UP, "Pairs told right at the threshold of the other nine folds."),
    r"verification/val": Words("VAL at a FAR of 0.001", UP, "Pairs of one class accepted, with 1 in 1000 others."),
    r"verification/far": Words("FAR at that threshold", DOWN),
    r"verification/roc/([\d.e-]+)": Words("pairs accepted at a FAR of {}", UP),
    r"verification/auc": Words("area under the ROC", UP),
    r"retrieval/(recall|precision)@(\d+)": Words("{} among the first {}", UP),
    r"cluster/accuracy": Words("accuracy after matching", UP),
    r"cluster/nmi": Words("mutual information", UP, "Normalised mutual information of clusters and classes."),
    r"classifier/(?:(\w+)[/_])?top1": Words("accuracy {}", UP),
    r"(?:linear_published|linear_layers)/top1": Words("accuracy", UP, "One linear layer, trained on random crops."),
    r"linear_layers/best_of_test": Words("best head on the test images", UP, "DINOv2's figure: chosen where measured."),
    r"attentive/(\w+)/top1": Words("accuracy, {}", UP),
    r"ridge/(\d+)shot/top1": Words("{} labels per class", UP),
    r"(?:segmentation|segmentation_heads/(\w+)|knn_segmentation)/miou": Words("mIoU {}", UP),
    r"depth/(\w+)/(abs_rel|sq_rel|rmse|rmse_log|log10)": Words("{1}, {0}", DOWN),
    r"depth/(\w+)/delta(\d)": Words("within 1.25^{1}, {0}", UP),
    r"normals/(\w+)/(mean|median)_angle": Words("{1} angle, degrees, {0}", DOWN),
    r"normals/(\w+)/within_(\d+)": Words("within {1} degrees, {0}", UP),
    r"boundaries/(\w+)/average_precision": Words("average precision, {}", UP, "Of the pixels; two pixels tolerated."),
    r"detection/(\w+)/(\w+)": Words("{1}, {0}", UP),
    r"propagation/(\w+)": Words("{}", UP, "J: overlap of the masks; F: of their contours; jf: the mean."),
    r"forgetting/average": Words("accuracy after the last task", UP, "Mean over tasks, nearest neighbours in each."),
    r"forgetting/forgetting": Words("forgetting", DOWN, "How far each task has fallen from its best, on average."),
    r"forgetting/(backward|forward)_transfer": Words("{} transfer", UP),
    r"zero_shot/dap": Words("direct attribute prediction", UP, "Among classes that no image was seen of."),
    r"zero_shot/linear_map": Words("linear map to class embeddings", UP, "Among classes that no image was seen of."),
    r"adabn/(\w+)": Words("{}", UP, "Accuracy on the target, before and after its statistics are taken."),
    r"adapt/few_(\w+)": Words("{}, 3 labels per class of the target", UP),
    r"adapt/(\w+)": Words("{}", UP, "Accuracy on the target after this way of adapting to it."),
    r"seconds/(\w+)": Words("{}"),
    r"(?:pretext/)?probe_top1": Words(
        "accuracy of the online linear probe", UP, "Trained beside the run, on its batches."
    ),
    r"(?:pretext/)?(?:projection|query)_std": Words("spread of the projections", UP, "Standard deviation over images."),
    r"(?:pretext/)?contrastive_(?:top1|accuracy)": Words(
        "pairs found", UP, "How often the other view of an image is the most similar one of the batch."
    ),
    r"(?:pretext/)?(\w+)_(?:top1|accuracy)": Words("accuracy of the task: {}", UP),
    r"(?:pretext/)?(\w+)_mse": Words("squared error: {}", DOWN),
    r"(?:pretext/)?psnr": Words("PSNR", UP, "Peak signal-to-noise ratio of the reconstruction, dB."),
    r"(?:pretext/)?(\w+)_loss": Words("loss: {}", DOWN),
    r"\S*/loss|loss": Words("loss", DOWN),
    r"lr/default": Words("learning rate"),
    r"lr/(\w+)": Words("learning rate: {}"),
    r"input_wait": Words("share of the time that steps waited for input", DOWN),
    r"grad_norm": Words("norm of the gradient"),
}
REPRESENTATIONS = {
    "pretrained": "pretrained",
    "untrained": "untrained",
    "supervised": "supervised",
    "pixels": "pixels",
    "pca": "PCA of pixels",
    "chance": "chance",
}


def of(measure: str) -> Words:
    """How a measure is told; one without words of its own by the rest of its name."""
    for pattern, words in _MEASURES.items():
        if match := re.fullmatch(pattern, measure):
            filled = [(part or "").replace("_", " ").strip("/") for part in match.groups()]
            return words._replace(name=words.name.format(*filled).strip())
    rest = measure.partition("/")[2] or measure
    return Words(rest.replace("_", " ").replace("/", ", "))


def group(name: str) -> str:
    """What a group of measures, the first part of their names, is called."""
    return GROUPS.get(name, name.replace("_", " "))
