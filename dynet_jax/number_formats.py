"""The numbers that inference may use, by the names that `dynet benchmark` has for them."""

# How weights that are read once per image (banks, predictors, classifier) are stored, and what is computed with.
NUMBERS = {
    "float32": ("float32", "float32"),
    "bfloat16-banks": ("bfloat16", "float32"),
    "int8-banks": ("int8", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16-int8-banks": ("int8", "bfloat16"),
    "int8": ("int8", "int8"),
}
