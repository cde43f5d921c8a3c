"""The tasks of networks: data, losses, metrics of classification and segmentation."""
