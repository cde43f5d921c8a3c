"""`dynet export`: a trained network as a file that runs without this package."""

from dynet_jax.arguments import Parser, path_argument
from dynet_jax.bucket import size_of
from dynet_jax.cli.workdirs import add_workdir
from dynet_jax.console import size
from dynet_jax.errors import UserError

LIST = "list"


def add_export(commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a trained network as a file that runs without this package",
        description="Writes one file, for one image or more, of any size, with the names of the classes and the "
        "preprocessing in it. stablehlo runs with JAX alone; onnx with ONNX Runtime, OpenVINO and others; native with "
        "this package's engine, from C and from Python with NumPy alone. "
        f"--format={LIST} shows all formats, each with its own options.",
        epilog="example: dynet export runs/digits --format=onnx --out=digits.onnx",
    )
    add_workdir(parser)
    parser.add_argument(
        "--format",
        nargs="?",
        const=LIST,
        required=True,
        metavar="NAME",
        help=f"stablehlo, onnx, native, ...; or '{LIST}'",
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="default: WORKDIR/NETWORK.SUFFIX")
    parser.add_argument(
        "--storage", default="float32", metavar="TYPE", help="of the banks of kernels: float32, bfloat16 or int8"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.set_defaults(run=_export, takes_overrides=True)


def _export(options) -> None:
    from dynet_jax.export.files import export_workdir
    from dynet_jax.export.formats import export_format, export_formats

    if options.format == LIST:
        for format in export_formats():
            print(f"{format.name}: {format.help}")
            for name, option in format.options.items():
                print(f"  --{name}={option.metavar}  {option.help}")
        return
    path = export_workdir(
        options.workdir,
        options.out,
        format=options.format,
        step=options.step,
        storage=options.storage,
        overwrite=options.overwrite,
        **_options_of(export_format(options.format), options.overrides),
    )
    print(f"{path}: {size(size_of(path))}; docs/inference.md shows how to use it")


def _options_of(chosen, arguments: list[str]) -> dict:
    """The options of the format by their names. Raises UserError for one that it does not have."""
    from dynet_jax.export.formats import check_options

    parser = Parser(prog=f"dynet export --format={chosen.name}", add_help=False, allow_abbrev=False)
    for name, option in chosen.options.items():
        parser.add_argument(f"--{name}", type=option.read, metavar=option.metavar, help=option.help)
    found, rest = parser.parse_known_args(arguments)
    if rest and not rest[0].startswith("--"):
        raise UserError(f"cannot read {rest[0]!r}; see dynet export --help")
    check_options(chosen, dict.fromkeys(word.removeprefix("--").partition("=")[0] for word in rest[:1]))
    return {name: value for name, value in vars(found).items() if value is not None}
