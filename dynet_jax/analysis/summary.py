"""`dynet summary`: a network's cost as a table to read."""

import flax.linen as nn

from dynet_jax.analysis.macs import count_macs


def summarize(name: str, model: nn.Module, image_size: int) -> str:
    """One line per layer and the sums, as text. MACs in millions (1e6); zeros are left blank."""
    count = count_macs(model, (image_size, image_size, 3))
    lines = [f"{name}, {image_size}x{image_size}: multiply-adds in millions, for one image", ""]
    lines.append(_line("layer", "kind", "output", "convolution", "fusion", "predictor", "classifier", "parameters"))
    lines.append("-" * len(lines[-1]))
    for row in count.rows:
        shape = "x".join(map(str, row.output_shape))
        macs = (row.convolution, row.fusion, row.predictor, row.classifier)
        lines.append(_line(row.name, row.kind, shape, *map(_millions, macs), f"{row.parameters:,}"))
    lines.append("-" * len(lines[2]))
    sums = (count.convolution, count.fusion, count.predictor, count.classifier)
    lines.append(_line("sum", "", "", *map(_millions, sums), f"{count.parameters:,}"))
    lines.append("")
    lines.append(f"convolutions                  {count.convolution:>14,} multiply-adds")
    lines.append(f"  + fusion + predictor        {count.total - count.classifier:>14,}")
    lines.append(f"  + classifier                {count.total:>14,}")
    lines.append(f"parameters (with BatchNorm's) {count.parameters:>14,}")
    return "\n".join(lines)


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.3f}" if macs else ""


def _line(name, kind, shape, *numbers) -> str:
    return f"{name:<28} {kind:<13} {shape:<13}" + "".join(f"{number:>13}" for number in numbers)
