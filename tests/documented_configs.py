"""The names documented for `--config=configs/NAME.py`: the networks and the rows of the paper."""

CLASSIFICATION = (
    *("condconv_mobilenet_v2", "condconv_resnet18", "dy_cnn_mobilenet_v2", "dy_cnn_resnet18"),
    *("dy_mobile", "dy_mobile_g1", "dy_mobile_g2", "dy_mobile_g4", "fix_mobile"),
    *("dy_mobilenet_v2", "dy_mobilenet_v3_large", "dy_mobilenet_v3_small"),
    *("dy_resnet18", "dy_resnet18_g1", "dy_resnet50", "fix_resnet18", "fix_resnet50"),
    *("dy_shuffle", "dy_shuffle_1_5", "fix_shuffle", "fix_shuffle_1_5"),
    *("mobilenet_v2", "mobilenet_v2_0_6", "mobilenet_v2_0_75", "mobilenet_v3_large", "mobilenet_v3_small"),
    *("resnet18", "resnet50", "shufflenet_v2"),
)
SEGMENTATION = tuple(
    f"seg_{name}" for name in ("dy_mobile", "dy_resnet18", "dy_resnet50", "mobilenet_v2", "resnet18", "resnet50")
)
