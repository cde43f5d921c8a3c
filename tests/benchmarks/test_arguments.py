"""A mistake in an argument of any benchmark is one line, before anything long begins."""

import argparse

import pytest

from benchmarks import (
    arguments,
    compare_runs,
    correctness,
    crash_test,
    dynamic_conv,
    inference_accuracy,
    input_pipeline,
    throughput,
)


@pytest.mark.parametrize(
    ("benchmark", "argv", "message"),
    [
        (dynamic_conv, ["--batch=64,x"], "argument --batch: must be a positive int, not 'x'"),
        (dynamic_conv, ["--limit=inf"], "argument --limit: must be a positive float, not 'inf'"),
        (dynamic_conv, ["--markdown=nowhere/table.md"], "argument --markdown: there is no directory nowhere"),
        (throughput, ["--compile=fast"], "argument --compile: invalid choice: 'fast'"),
        (throughput, ["--cell-limit=0"], "argument --cell-limit: must be a positive float, not '0'"),
        (throughput, ["--jsonl=."], "argument --jsonl: . is a directory"),
        (correctness, ["--size=0"], "argument --size: must be a positive int, not '0'"),
        (correctness, ["--networks=dx_*"], "argument --networks: no network matches 'dx_*'"),
        (crash_test, ["--kills=-1"], "argument --kills: must be a positive int, not '-1'"),
        (compare_runs, ["runs", "a", "--png=nowhere/a.png"], "argument --png: there is no directory nowhere"),
        (inference_accuracy, ["nowhere"], "nowhere"),
        (input_pipeline, ["nowhere", "--loaders=PIL,gd"], "argument --loaders: unknown name 'gd'"),
        (input_pipeline, ["nowhere", "--core=123456"], "argument --core: there is no core 123456"),
    ],
)
def test_a_mistake_is_one_line(benchmark, argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(argv)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_what_is_read():
    assert arguments.names(("a", "b", "c"))("c,a,c") == ["c", "a"]
    assert arguments.names(("a", "b"))("all") == ["a", "b"]
    assert arguments.batches("64,256,64") == [64, 256]
    assert arguments.positive(float)("0.5") == 0.5
    assert [slice.chips for slice in arguments.topologies("v5e:2x2,v5e:16x16")] == [4, 256]
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.positive(float)("nan")
