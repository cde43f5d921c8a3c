"""The TPU's kernel for grouped convolutions with a kernel per image, interpreted, against the plain forms."""
