"""A folder of class folders that differs from what its owner believes: it is reported at the start, or rejected."""

import os
import re
import time

import pytest

from dynet_jax import cli
from dynet_jax.data import load_source
from dynet_jax.data.contents import check_classes, describe
from dynet_jax.data.decode import decode
from dynet_jax.data.files import Skipped, list_images
from dynet_jax.data.packed import PackedSource
from dynet_jax.errors import UserError
from tests.data.images import encoded, smooth

PICTURE = encoded(smooth(8, 8), "PNG")
CLASSES = ("cat", "dog", "fox")


def write(path, content=PICTURE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "D"
    for split, count in (("train", 4), ("val", 2)):
        for name in CLASSES:
            for number in range(count):
                write(root / split / name / f"{number}.png")
    return root


def sources(root):
    return {split: load_source(f"folder:{root}", split) for split in ("train", "test")}


def told(root):
    return describe(sources(root))


def refused(root, message, split="train"):
    with pytest.raises(UserError, match=message) as caught:
        load_source(f"folder:{root}", split)
    assert "\n" not in str(caught.value)


def test_classes_and_images_of_each_are_said(root):
    assert told(root) == ["data: 3 classes, 12 train images (4 a class), 6 val images (2 a class)"]
    write(root / "train/fox/more.png")
    (line,) = told(root)
    assert line == "data: 3 classes, 13 train images (4 of cat to 5 of fox), 6 val images (2 a class)"


def test_what_is_skipped_and_lacking_is_said(root, tmp_path):
    write(root / "train/fox/notes.txt")
    write(root / "train/cat/more.txt")
    write(root / "train/cat/.ipynb_checkpoints/0-checkpoint.png")
    write(root / "train/cat/@eaDir/0.png")
    write(root / "train/dog/._0.png")
    write(root / "train/dog/a.heic")
    write(root / "train/__MACOSX/cat/0.png")
    write(root / "train/stray.png")
    (root / "train/cat/7.png").symlink_to(root / "train/cat/0.png")
    (root / "train/cat/8.png").symlink_to(tmp_path / "nowhere.png")
    (root / "train/cat/9.png").symlink_to("9.png")
    (root / "train/cat/around").symlink_to(root)
    os.mkfifo(root / "train/dog/pipe.png")
    for path in (root / "val/fox").iterdir():
        path.unlink()
    train = load_source(f"folder:{root}", "train")
    assert [len(train), train.contents.counts] == [13, {"cat": 5, "dog": 4, "fox": 4}]
    first, second = told(root)
    assert first == "data: 3 classes, 13 train images (4 of dog to 5 of cat), 4 val images (2 a class)"
    for part in (
        "skipped in train: ",
        "2 .txt files (cat/more.txt)",
        "3 hidden or tool folders (",
        "1 hidden file (dog/._0.png)",
        "1 .heic file (dog/a.heic)",
        "1 image beside the class folders (stray.png)",
        "2 broken links (cat/8.png)",
        "1 linked folder (cat/around)",
        "1 special file (dog/pipe.png)",
        "; 1 images of train are links; val has no images of fox",
    ):
        assert part in second


def test_what_is_skipped_is_one_line_whatever_it_is(root):
    for number in range(20):
        write(root / f"train/cat/a.{number:03}")
    for name in ("checksums", "b\nc.d\ne", "x.a very long suffix"):
        write(root / "train/cat" / name)
    line = told(root)[1]
    assert "3 other files (cat/b c.d e), 1 .000 file (cat/a.000)" in line
    assert line.endswith(" and 13 more")


@pytest.mark.parametrize("suffix", ["jfif", "gif", "avif", "JPE", "ppm", "jp2"])
def test_what_is_decoded_is_listed(root, suffix):
    kinds = {"jfif": "JPEG", "JPE": "JPEG", "jp2": "JPEG2000"}
    content = encoded(smooth(8, 8), kinds.get(suffix, suffix.upper()))
    write(root / f"train/fox/x.{suffix}", content)
    assert len(load_source(f"folder:{root}", "train")) == 13
    assert decode(content).shape == (8, 8, 3)


def test_other_images_beside_the_classes(root):
    write(root / "train/images/day/0.png")
    assert len(sources(root)["train"].class_names) == 4
    write(root / "train/images/cat/0.png")
    refused(root, "train/images holds folders of the classes beside it; move it out of .*/train$")


@pytest.mark.parametrize("names", [["images"], ["images", "labels"], ["train", "val"], ["photos"]], ids=str)
def test_the_wrong_level(tmp_path, names):
    for name in names:
        for inner in CLASSES:
            write(tmp_path / "train" / name / inner / "0.png")
    refused(tmp_path, r"train holds .* with cat, dog, fox in it, but it must hold a folder of images for each class")


def test_classes_may_have_folders(root):
    for name in CLASSES:
        for inner in ("day", "night"):
            write(root / "train" / name / inner / "0.png")
    write(root / "train/cat/lost+found/deep/1.png")
    inner = "cat/day (1), cat/lost+found (1), cat/night (1), dog/day (1), dog/night (1) and 2 more"
    note = f"data: 7 images of train lie in folders within class folders: {inner}"
    assert told(root)[1] == note
    for path in (root / "train").glob("[cd]*/*.png"):
        path.unlink()
    assert told(root)[1] == f"{note}; all images of cat, dog do: are these folders the classes?"


def test_classes_that_only_capitals_tell_apart(root):
    write(root / "train/Cat/0.png")
    assert told(root)[1].startswith("data: classes of train differ in capitals only: Cat and cat; ")


@pytest.mark.parametrize("name", ["cat ", " cat"])
def test_classes_that_only_spaces_tell_apart(root, name):
    write(root / "train" / name / "0.png")
    refused(root, "has two folders .*cat.*, whose accents or spaces are written differently; join them")


def test_a_folder_above_or_below_the_right_one(root):
    refused(root.parent, f"there is no .*/train; .*; did you mean folder:{root}?")
    refused(root / "train", f"did you mean folder:{root}?")
    (root / "train").rename(root / "Train")
    refused(root, f"holds Train, val; rename {root}/Train to train")
    (root / "val").rename(root / "Valid")
    refused(root, f"holds Train, Valid; rename {root}/Valid to valid", "test")


def test_train_images_alone_can_be_evaluated(root):
    (root / "val").rename(root.parent / "val")
    command = f"; to test with those of train: `dynet evaluate WORKDIR --data=folder:{root}/train`"
    refused(root, f"holds train{re.escape(command)}$", "test")
    assert len(load_source(f"folder:{root}/train", "test")) == 12


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_of_files_that_are_no_images(root, split):
    for path in (root / split / "fox").iterdir():
        path.rename(path.with_suffix(".heic"))
    refused(root, rf"no images below .*{split}/fox, only \d .heic files", "train" if split == "train" else "test")


@pytest.mark.parametrize("left", [None, ".gitkeep", "more/.DS_Store", "Thumbs.db", "Desktop.ini", "Icon\r"])
def test_a_class_without_files(root, left):
    for split in ("train", "val"):
        for path in (root / split / "fox").iterdir():
            path.unlink()
        if left:
            write(root / split / "fox" / left)
    refused(root, r"no images below .*train/fox.*; put those of the class there, or remove the folder")
    assert len(load_source(f"folder:{root}", "test")) == 4  # is said instead


def test_links_to_classes(root, tmp_path):
    (root / "train/owl").symlink_to(tmp_path / "nowhere")
    refused(root, "train/owl is a broken link; repair or remove it")
    (root / "train/owl").unlink()
    (root / "train/owl").symlink_to("cat")
    refused(root, "owl and .*cat are the same folder")
    for around in (root, root / "train"):
        (root / "train/owl").unlink()
        (root / "train/owl").symlink_to(around)
        refused(root, "train/owl is a link to .*, in which it lies; remove it")
    for path in ("train/all/cat/1.png", "elsewhere/fox/0.png"):
        write(root / path)
    (root / "train/owl").unlink()
    (root / "train/owl").symlink_to("all/cat")
    refused(root, "train/owl and .*train/all have images in common; remove one of them")
    (root / "train/all/cat/1.png").rename(root / "train/all/1.png")
    for name, place in (("owl", "fox"), ("all", "")):
        (root / "train" / name).rename(root / name)
        (root / "train" / name).symlink_to(root / "elsewhere" / place)
    refused(root, "train/owl and .*train/all have images in common")
    (root / "train/all").unlink()
    (root / "train/owl").unlink()
    write(tmp_path / "elsewhere/0.png")
    (root / "train/owl").symlink_to(tmp_path / "elsewhere")
    assert load_source(f"folder:{root}", "train").contents.counts["owl"] == 1
    assert "links to folders: train/owl" in told(root)[1]


def test_a_val_folder_that_is_the_train_folder(root):
    (root / "val").rename(root / "other")
    (root / "val").symlink_to("train")
    assert "the same folders as in train: cat, dog, fox" in told(root)[1]


def test_one_class_or_two_of_a_name_cannot_be_told_apart(root):
    source = load_source(f"folder:{root}", "train")
    source.class_names = ["cat"]
    with pytest.raises(UserError, match="D has one class, cat; a classifier needs the images of two or more"):
        check_classes(source, "D")
    source.class_names = ["cat", "dog", "cat"]
    with pytest.raises(UserError, match="D has several classes called cat"):
        check_classes(source, "D")


def test_names_that_are_not_utf_8(root, tmp_path, capsys):
    os.rename(root / "train/cat/0.png", os.fsencode(root / "train/cat") + b"/caf\xe9.png")
    assert len(sources(root)["train"]) == 12
    assert cli.main(["prepare", f"folder:{root}", f"--data-dir={tmp_path / 'packed'}"]) == 0
    assert capsys.readouterr().err.startswith("data: 3 classes, 12 train images (4 a class)")
    packed = PackedSource(tmp_path / "packed", "train")
    assert packed[3].name == r"train/cat/caf\xe9.png"
    assert packed.contents.counts == dict.fromkeys(CLASSES, 4)
    os.rename(root / "train/cat", os.fsencode(root / "train") + b"/caf\xe9")
    refused(root, r"a class folder in .*train has a name that is not UTF-8: b'caf\\xe9'; rename it")


def test_accents_are_the_same_however_they_are_written(root):
    (root / "train/cat").rename(root / "train/caf\u00e9")
    (root / "val/cat").rename(root / "val/cafe\u0301")
    train, test = sources(root).values()
    assert train.class_names == test.class_names == ["caf\u00e9", "dog", "fox"]
    assert test.contents.counts["caf\u00e9"] == 2
    write(root / "train/cafe\u0301/0.png")
    refused(root, "has two folders .* accents or spaces are written differently; join them")


def test_many_files_are_listed_fast(tmp_path):
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        for file in range(250):
            os.close(os.open(tmp_path / str(number) / f"{file}.jpg", os.O_CREAT))
    begun, skipped = time.process_time(), Skipped(tmp_path)
    assert len(list_images(tmp_path, skipped)) == 5000
    assert time.process_time() - begun < 0.5  # 200,000 in a few seconds
