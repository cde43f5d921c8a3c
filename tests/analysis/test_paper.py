"""Our counts against the paper's tables, and against the numbers that identify its networks."""

import pytest

from dynet_jax.analysis.paper import MI, ROWS, M, rows_of
from dynet_jax.analysis.subject import Subject

# Quoted by the paper from elsewhere; no rounding of MobileNetV2's widths gives them.
NOT_REPRODUCED = {"MobileNetV2 (0.75)": 0.442, "MobileNetV2 (0.6)": 0.071}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"table {row.table}, {row.label}")
def test_within_a_percent_of_the_paper(row):
    expected = NOT_REPRODUCED.get(row.label, 0.0)
    assert row.difference == pytest.approx(expected, abs=0.009)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "counted", "expected"),
    [
        (Subject("dy_resnet18", {}), lambda c: c.convolution + c.classifier, 577_480_704),
        (Subject("dy_resnet50", {}), lambda c: c.convolution + c.classifier, 1_127_374_848),
        (Subject("dy_resnet18", {}), lambda c: round(c.total / M, 1), 594.4),
        (Subject("dy_resnet50", {}), lambda c: round(c.total / M, 1), 1169.1),
        (Subject("dy_shuffle", {}), lambda c: round(c.convolution / MI, 2), 88.74),
        (Subject("dy_shuffle", {"width": 1.5}), lambda c: round(c.convolution / MI, 2), 171.24),
        (Subject("dy_shuffle", {}), lambda c: round((c.total - c.classifier) / MI, 2), 92.74),
        (Subject("shufflenet_v2", {}), lambda c: round(c.total / M, 2), 145.81),
        (Subject("shufflenet_v2", {"downsample": "torchvision"}), lambda c: round(c.total / M, 2), 144.91),
        (Subject("shufflenet_v2", {"width": 1.5}), lambda c: round(c.total / M, 2), 298.97),
        (Subject("mobilenet_v2", {}), lambda c: round(c.total / M, 2), 300.77),
        (Subject("resnet18", {}), lambda c: round(c.total / M, 2), 1814.07),
        (Subject("resnet50", {}), lambda c: round(c.total / M, 2), 4089.18),
        (Subject("dy_mobile", {"group_size": 1}), lambda c: round((c.total - c.classifier) / M, 1), 130.2),
        (Subject("dy_mobile", {"group_size": 2}), lambda c: round((c.total - c.classifier) / M, 1), 131.2),
        (Subject("dy_mobile", {"group_size": 4}), lambda c: round((c.total - c.classifier) / M, 1), 133.2),
        (Subject("dy_mobile", {"group_size": 6}), lambda c: round((c.total - c.classifier) / M, 1), 135.1),
    ],
    ids=lambda value: value.label if isinstance(value, Subject) else "",
)
def test_pinned_down(subject, counted, expected):
    assert counted(subject.count) == expected


def test_reductions():
    """'37.0 %, 54.7 %, 67.2 % and 71.3 %', each in the units in which the paper divides."""
    ours = {(row.table, row.label): row.ours for row in ROWS}
    published = {"Dy-shuffle (1.0)": (146, 0.37), "Dy-mobile (1.0)": (298, 0.547)}
    published |= {"Dy-ResNet18": (1730, 0.672), "Dy-ResNet50": (3890, 0.713)}
    for label, (base, reduction) in published.items():
        assert 1 - ours["1 later", label] / base == pytest.approx(reduction, abs=0.006)


def test_rows_are_found_by_equal_networks():
    rows = rows_of(Subject("dy_mobile", {"width": 1.0, "group_size": 6}))
    assert [row.table for row in rows] == ["1", "1 later", "4"]
    assert rows_of(Subject("dy_mobile", {"width": 0.5})) == []
    assert rows_of(Subject("dy_mobile", {}, image_size=256)) == []
    assert rows_of(Subject("fcn_resnet50", {}, 769)) == []
    assert [row.table for row in rows_of(Subject("fcn_resnet50", {"stem": (64, 64, 128)}, 769))] == ["3"]


def test_the_head_is_counted():
    with_head = Subject("fcn_resnet18", {"hidden_features": 16}, 65).count
    rows = {row.name: row for row in with_head.rows}
    assert rows["head"].convolution == 9 * 9 * (9 * 512 * 16)
    assert rows["classifier"].convolution == 9 * 9 * 16 * 19
    assert with_head.classifier == 0


def test_defaults_are_each_networks_own():
    assert Subject("condconv_resnet18", {"group_size": 8}).label == "condconv_resnet18"
    assert Subject("condconv_resnet18", {"group_size": 6}).label == "condconv_resnet18, group_size=6"
