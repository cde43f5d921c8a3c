"""`dynet compile-tpu`: how a configuration would run on a slice of TPUs."""

import sys
from pathlib import Path

from dynet_jax.arguments import overrides


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
    parser.add_argument("config", help="a file as train.py takes it, FILE[:VARIANT]")
    parser.add_argument("--topology", default="v5e:2x2", help="v4, v5e, v5p or v6e and its grid; default: v5e:2x2")
    parser.add_argument("--compare", metavar="CONFIG", help="another file, compiled too and shown beside it")
    parser.set_defaults(run=_compile_tpu, takes_overrides=True)


def _compile_tpu(options) -> None:
    from dynet_jax.config.load import load_config, override
    from dynet_jax.tpu.chips import parse_topology
    from dynet_jax.tpu.compiler import compile_for
    from dynet_jax.tpu.devices import slice_devices
    from dynet_jax.compiled.report import report

    slice, files = parse_topology(options.topology), [options.config, *filter(None, [options.compare])]
    configs = [load_config(file) for file in files]
    for config in configs:
        override(config, overrides(options.overrides))
    slice_devices(slice)  # without the compiler there is nothing to wait for
    results = []
    for file, config in zip(files, configs):
        _say(f"compiling {file} for {slice.name} (one to ten minutes) ...")
        results.append(compile_for(config, slice, progress=_say))
    print(report([Path(file).stem for file in files], results, slice))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
