"""`dynet export`: a trained network as a file that runs without this package."""

from pathlib import Path

from dynet_jax.cli.parsing import path_argument
from dynet_jax.cli.workdirs import add_workdir


def add_export(commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a trained network as a file that runs without this package",
        description="Writes one file, for one image or more, of any size, with the names of the classes and the "
        "preprocessing in it. stablehlo runs with JAX alone; onnx with ONNX Runtime, OpenVINO and others.",
        epilog="example: dynet export runs/digits --format=onnx --out=digits.onnx",
    )
    add_workdir(parser)
    parser.add_argument("--format", required=True, metavar="stablehlo|onnx")
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="default: WORKDIR/NETWORK.FORMAT")
    parser.add_argument(
        "--storage", default="float32", metavar="TYPE", help="of the banks of kernels: float32, bfloat16 or int8"
    )
    parser.add_argument("--platforms", metavar="NAME,...", help="stablehlo: of cpu, cuda, rocm, tpu; default: cpu")
    parser.add_argument("--opset", type=int, metavar="N", help="onnx: the version of its operators")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.set_defaults(run=_export)


def _export(options) -> None:
    from dynet_jax.export.files import export_workdir

    platforms = None if options.platforms is None else tuple(options.platforms.split(","))
    path = export_workdir(
        options.workdir,
        options.out,
        format=options.format,
        step=options.step,
        storage=options.storage,
        platforms=platforms,
        opset=options.opset,
        overwrite=options.overwrite,
    )
    print(f"{path}: {Path(path).stat().st_size / 1e6:.2f} MB; docs/inference.md shows how to use it")
