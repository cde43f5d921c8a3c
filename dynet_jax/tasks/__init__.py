"""What a network is for: data, losses, metrics of classification and segmentation."""
