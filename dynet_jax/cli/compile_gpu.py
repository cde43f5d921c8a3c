"""`dynet compile-gpu`: how a configuration would run on GPUs."""

from dynet_jax.arguments import positive_argument
from dynet_jax.cli.compiled import add_configurations, report_steps


def add_compile_gpu(commands) -> None:
    parser = commands.add_parser(
        "compile-gpu",
        help="whether and how fast a configuration would run on GPUs, without one",
        description="Compiles both steps of a run with XLA's compiler for NVIDIA GPUs (`make env-gpu-compiler` "
        "installs it) and prints what they compute, move and exchange, and what the published peaks make of that.",
        epilog="examples: dynet compile-gpu configs/dy_mobile.py --gpu=h100 --devices=8; dynet compile-gpu "
        "configs/dy_mobile.py --compare=configs/mobilenet_v2.py --config.batch_size=64 --config.dtype=bfloat16",
        usage="dynet compile-gpu CONFIG [--gpu=CARD] [--devices=N] [--compare=CONFIG] [--config.KEY=VALUE ...]",
    )
    add_configurations(parser)
    parser.add_argument("--gpu", default="h100", metavar="CARD", help="a100, h100, h200, l4 or b200; default: h100")
    devices = "cards of one machine, up to 8; default: 1"
    parser.add_argument("--devices", type=positive_argument, default=1, metavar="N", help=devices)
    parser.set_defaults(run=_compile_gpu)


def _compile_gpu(options) -> None:
    from dynet_jax.gpu.cards import parse_node
    from dynet_jax.gpu.compiler import compile_for
    from dynet_jax.gpu.devices import node_devices

    node = parse_node(options.gpu, options.devices)
    node_devices(node)  # without the compiler there is nothing to wait for
    report_steps(options, node, compile_for)
