"""What a model card calls the four kinds of heads, and metrics."""

WHAT = {
    "classification": "A classifier of 3D point clouds",
    "multi-label": "A classifier of 3D point clouds, each of which may be of several classes or of none",
    "regression": "A regression, which gives numbers for 3D point clouds",
    "segmentation": "A segmentation model, which labels every point of 3D point clouds",
    None: "Features of 3D point clouds",
}
CLASSES = {
    "classification": "Classes",
    "multi-label": "Classes",
    "regression": "Numbers",
    "segmentation": "Parts",
    None: "",
}
ALWAYS = {
    "classification": "It always answers with one of its classes, whatever the cloud is.",
    "multi-label": "It knows no other classes than its own, and says of each whether it fits, whatever the cloud is.",
    "regression": "It always answers with numbers like those it was trained on, in their units, whatever the cloud is.",
    "segmentation": "It always gives each point one of its parts, whatever the cloud is.",
}
ANSWERS = {
    "classification": "print(model.config.id2label[int(outputs.logits[0].argmax())])",
    "multi-label": "print({model.config.id2label[i]: float(p) for i, p in "
    "enumerate(model.probabilities(outputs.logits[0]))})",
    "regression": "print({model.config.id2label[i]: float(value) for i, value in enumerate(outputs.logits[0])})",
}

METRICS = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "instance_miou": "instance mIoU",
    "class_miou": "class mIoU",
    "mean_average_precision": "mAP",
    "average_precision": "average precision",
    "f1": "F1",
    "f1_micro": "F1 (micro)",
    "f1_macro": "F1 (macro)",
    "exact_match": "exact match",
    "num_clouds": "clouds",
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
}
"""Names of metrics, and how they are called; for segmentation the accuracy is that of points."""
