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
_CHOSEN = "What is tuned is chosen by this."
_EDGE = "1: a better value may lie beyond the values that were tried."
_FEW = "Logistic regression on frozen features, mean over draws of the labelled images."
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
    r"(?:linear|linear_lbfgs)/held_out_top1": Words("accuracy on held-out training images", UP, _CHOSEN),
    r"(?:linear|linear_lbfgs)/learning_rate": Words("chosen learning rate", "", "By accuracy on held-out images."),
    r"(?:linear|linear_lbfgs)/c": Words("chosen C", "", "Inverse of the penalty, by accuracy on held-out images."),
    r"(?:linear|linear_lbfgs)/at_edge": Words("choice at the edge of its grid", "", _EDGE),
    r"layers/(\d)/top1": Words("accuracy, stage {}", UP, "Logistic regression on the pooled features of this stage."),
    r"layers/(\d)/held_out_top1": Words("accuracy on held-out training images, stage {}", UP, _CHOSEN),
    r"layers/(\d)/c": Words("chosen C, stage {}", "", "Inverse of the penalty, by accuracy on held-out images."),
    r"layers/(\d)/at_edge": Words("choice at the edge of its grid, stage {}", "", _EDGE),
    r"few_label/1": Words("1 label per class", UP, _FEW),
    r"few_label/(\d+)": Words("{} labels per class", UP, _FEW),
    r"few_label/all": Words("all labels", UP, "Logistic regression on all labelled images, at most 20,000."),
    r"label_curve/([\d.]+)/top1": Words("{} % of the labels", UP, _FEW),
    r"fine_tune/([\d.]+)/top1": Words("{} % of the labels", UP, "The whole backbone trained on this share."),
    r"fine_tune/(frozen|tuned)(\d)/top1": Words(
        "first {1} stages copied, {0}", UP, "The later stages start from random weights."
    ),
    r"few_shot/(\d+)way_(\d+)shot/(\w+)": Words(
        "{}-way {}-shot, {}", UP, "Episodes of so many classes with so many labelled images each."
    ),
    r"retrieval/map": Words("mean average precision", UP, "Of the ranking of all other test images, per query."),
    r"retrieval/map@r": Words("mean average precision at R", UP, "Of the first R; R images are of the query's class."),
    r"retrieval/r_precision": Words("R-precision", UP, "Share of the query's class among the first R."),
    r"verification/accuracy": Words("accuracy", UP, "Pairs told right at the threshold of the other nine folds."),
    r"verification/val": Words("VAL at a FAR of 0.001", UP, "Pairs of one class accepted, with 1 in 1000 others."),
    r"verification/far": Words("FAR at that threshold", DOWN, "Pairs of two classes that are accepted."),
    r"verification/roc/([\d.e-]+)": Words(
        "pairs accepted at a FAR of {}", UP, "Of one class, at this share of others."
    ),
    r"verification/auc": Words("area under the ROC", UP, "How well distance orders pairs of one and of two classes."),
    r"retrieval/recall@(\d+)": Words("recall among the first {}", UP, "Queries with one of their class among these."),
    r"retrieval/precision@(\d+)": Words("precision among the first {}", UP, "Share of these of the query's class."),
    r"cluster/accuracy": Words("accuracy after matching", UP, "Each cluster counts as one class, matched best."),
    r"cluster/nmi": Words("mutual information", UP, "Normalised mutual information of clusters and classes."),
    r"classifier/(?:(\w+)[/_])?top1": Words("accuracy {}", UP, "Of the classifier that the method trains itself."),
    r"(?:linear_published|linear_layers)/top1": Words("accuracy", UP, "One linear layer, trained on random crops."),
    r"linear_layers/best_of_test": Words("best head on the test images", UP, "DINOv2's figure: chosen where measured."),
    r"attentive/(\w+)/top1": Words("accuracy, {}", UP, "The probe pools the patches with a learned query."),
    r"ridge/(\d+)shot/top1": Words("{} labels per class", UP, "Ridge regression in closed form."),
    r"(?:segmentation|segmentation_heads/(\w+)|knn_segmentation)/miou": Words(
        "mIoU {}", UP, "Intersection over union of masks, mean over classes."
    ),
    r"depth/(\w+)/(abs_rel|sq_rel|rmse|rmse_log|log10)": Words("{1}, {0}", DOWN, "Error of the depth over pixels."),
    r"depth/(\w+)/delta(\d)": Words("within 1.25^{1}, {0}", UP, "Pixels whose depth is right within this factor."),
    r"normals/(\w+)/(mean|median)_angle": Words("{1} angle, degrees, {0}", DOWN, "Between predicted and true normals."),
    r"normals/(\w+)/within_(\d+)": Words(
        "within {1} degrees, {0}", UP, "Pixels whose normal is right within this angle."
    ),
    r"boundaries/(\w+)/average_precision": Words("average precision, {}", UP, "Of the pixels; two pixels tolerated."),
    r"detection/(\w+)/(\w+)": Words("{1}, {0}", UP, "Average precision of boxes, as COCO and VOC define it."),
    r"propagation/(\w+)": Words("{}", UP, "J: overlap of the masks; F: of their contours; jf: the mean."),
    r"forgetting/average": Words("accuracy after the last task", UP, "Mean over tasks, nearest neighbours in each."),
    r"forgetting/forgetting": Words("forgetting", DOWN, "How far each task has fallen from its best, on average."),
    r"forgetting/(backward|forward)_transfer": Words(
        "{} transfer", UP, "What learning one task does to the accuracy on others."
    ),
    r"zero_shot/dap": Words("direct attribute prediction", UP, "Among classes that no image was seen of."),
    r"zero_shot/linear_map": Words("linear map to class embeddings", UP, "Among classes that no image was seen of."),
    r"adabn/(\w+)": Words("{}", UP, "Accuracy on the target, before and after its statistics are taken."),
    r"adapt/few_(\w+)": Words("{}, 3 labels per class of the target", UP, "Accuracy on the target."),
    r"adapt/(\w+)": Words("{}", UP, "Accuracy on the target after this way of adapting to it."),
    r"seconds/(\w+)": Words("{}", "", "Wall-clock time of this evaluation."),
    r"(?:pretext/)?probe_top1": Words(
        "accuracy of the online linear probe", UP, "Trained beside the run, on its batches."
    ),
    r"(?:pretext/)?(?:projection|query)_std": Words("spread of the projections", UP, "Standard deviation over images."),
    r"(?:pretext/)?contrastive_(?:top1|accuracy)": Words(
        "pairs found", UP, "How often the other view of an image is the most similar one of the batch."
    ),
    r"(?:pretext/)?(\w+)_(?:top1|accuracy)": Words(
        "accuracy of the task: {}", UP, "How often the method's own task is answered right."
    ),
    r"(?:pretext/)?(\w+)_mse": Words("squared error: {}", DOWN, "Mean over the predicted values."),
    r"(?:pretext/)?psnr": Words("PSNR", UP, "Peak signal-to-noise ratio of the reconstruction, dB."),
    r"(?:pretext/)?(\w+)_loss": Words("loss: {}", DOWN, "A part of the loss."),
    r"\S*/loss|loss": Words("loss", DOWN, "Of the method's own task; losses of different methods do not compare."),
    r"lr/default": Words("learning rate", "", "Of this update, after warm-up and schedule."),
    r"lr/(\w+)": Words("learning rate: {}", "", "Of this update, after warm-up and schedule."),
    r"input_wait": Words("waiting for input", DOWN, "Share of the time that steps waited for images."),
    r"grad_norm": Words("norm of the gradient", "", "Over all parameters, before clipping."),
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
