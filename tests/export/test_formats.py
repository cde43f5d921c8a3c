"""A format of one's own, as docs/inference.md shows it; each option belongs to its format."""

from copy import copy

import pytest

from dynet_jax.cli import main
from dynet_jax.errors import UserError
from dynet_jax.export import formats
from dynet_jax.export.files import export_workdir
from dynet_jax.inference import load
from tests.export.test_files import CLASSES, EXAMPLES
from tests.inference.workdirs import make_workdir


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """With the format of the documentation registered."""
    monkeypatch.setattr(formats, "_FORMATS", copy(formats._FORMATS.everything()))
    (example,) = [code for code in EXAMPLES if "@register_export_format" in code]
    exec(example, {})
    return make_workdir(tmp_path / "run", CLASSES)


@pytest.mark.slow
def test_a_format_of_ones_own(workdir, tmp_path, capfd):
    names = [operation.name for operation in load(workdir, runtime="jax").program.operations]
    assert main(["export", str(workdir), "--format=names", "--limit=3"]) == 0
    assert (workdir / "dy_mobile.names").read_text().splitlines() == names[:3]
    assert export_workdir(workdir, tmp_path / "all", format="names").read_text().splitlines() == names
    capfd.readouterr()
    assert main(["export", str(workdir), "--format"]) == 0
    listed = capfd.readouterr().out
    assert "names: the operations, line by line\n  --limit=N  how many\n" in listed
    assert all(f"{name}: " in listed for name in ("onnx", "stablehlo"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=names", "--opset=19"], "--opset is of --format=onnx; leave it out for names"),
        (["--format=onnx", "--limit=3"], "--limit is of --format=names; leave it out for onnx"),
        (["--format=names", "--limits=3"], "names has no option --limits; did you mean limit?"),
        (["--format=names", "limit"], "cannot read 'limit'"),
        (["--format=name"], "unknown export format 'name'; did you mean names"),
    ],
)
def test_options_belong_to_their_format(workdir, arguments, message, capfd):
    assert main(["export", str(workdir), *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_value_that_cannot_be_read(workdir, capfd):
    with pytest.raises(SystemExit):
        main(["export", str(workdir), "--format=names", "--limit=three"])
    assert "--limit: invalid int value: 'three'" in capfd.readouterr().err


@pytest.mark.slow
def test_a_name_is_registered_once(workdir):
    with pytest.raises(ValueError, match="'onnx' is registered already"):
        formats.register_export_format("onnx")(lambda model, network: b"")
    with pytest.raises(UserError, match=r"names has no option --size"):
        export_workdir(workdir, None, format="names", size=1)
