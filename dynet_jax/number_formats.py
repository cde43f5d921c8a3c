"""The number formats of inference, by the names that `dynet benchmark` uses."""

# (storage of weights that are read once per image: banks, predictors, classifier; type of the arithmetic)
NUMBERS = {
    "float32": ("float32", "float32"),
    "bfloat16-banks": ("bfloat16", "float32"),
    "int8-banks": ("int8", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16-int8-banks": ("int8", "bfloat16"),
    "int8": ("int8", "int8"),
}
