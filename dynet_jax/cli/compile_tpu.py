"""`dynet compile-tpu`: how a configuration would run on a slice of TPUs."""

from dynet_jax.cli.compiled import add_configurations, report_steps


def add_compile_tpu(commands) -> None:
    parser = commands.add_parser(
        "compile-tpu",
        help="whether and how fast a configuration would run on a slice of TPUs, without one",
        description="Compiles both steps of a run with the TPU's compiler (`make env-tpu` installs it) "
        "and prints what it counts, and what the published peaks of the chip make of that.",
        epilog="examples: dynet compile-tpu configs/dy_mobile.py --topology=v5e:16x16; dynet compile-tpu "
        "configs/dy_mobile.py --compare=configs/mobilenet_v2.py --config.dtype=bfloat16",
        usage="dynet compile-tpu CONFIG [--topology=CHIP:SHAPE] [--compare=CONFIG] [--config.KEY=VALUE ...]",
    )
    add_configurations(parser)
    parser.add_argument("--topology", default="v5e:2x2", help="v4, v5e, v5p or v6e and its grid; default: v5e:2x2")
    parser.set_defaults(run=_compile_tpu)


def _compile_tpu(options) -> None:
    from dynet_jax.tpu.chips import parse_topology
    from dynet_jax.tpu.compiler import compile_for
    from dynet_jax.tpu.devices import slice_devices

    slice = parse_topology(options.topology)
    slice_devices(slice)  # without the compiler there is nothing to wait for
    report_steps(options, slice, compile_for)
