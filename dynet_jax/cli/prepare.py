"""`dynet prepare`: write a dataset in the form that training reads."""


def add_prepare(commands) -> None:
    parser = commands.add_parser(
        "prepare",
        help="write a dataset, once, in the form that training reads",
        epilog="examples: dynet prepare imagenet2012 --archives=downloads --data-dir=datasets; "
        "dynet prepare folder:photos --data-dir=datasets/photos, to train on packed:datasets/photos",
    )
    parser.add_argument("dataset", help="imagenet2012, cifar10, cityscapes, or folder:PATH of class folders")
    parser.add_argument("--archives", metavar="DIR", help="the folder of ImageNet's tar or Cityscapes' zip files")
    parser.add_argument("--data-dir", metavar="DIR", help="where to write; ~/tensorflow_datasets if not of a folder")
    parser.set_defaults(run=_prepare)


def _prepare(options) -> None:
    from dynet_jax.data.prepare import prepare

    print(prepare(options.dataset, options.data_dir, options.archives))
