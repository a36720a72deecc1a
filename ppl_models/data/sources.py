"""Where the files of the named data sets come from, and that they are the right ones.

A file is known by "<data set>/<file>", which is also where it lies, first under the folder that the
environment variable PPL_DATA names, then under the download cache. If it is in neither it is downloaded into
the cache. Its checksum is compared in every case: a truncated or exchanged file would otherwise show up as a
slightly wrong likelihood. A checksum is written here only if its publisher or a public registry states it;
the source of each is noted beside it.
"""

import hashlib
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ppl_models.data.dataset import DataError

__all__ = ["FILES", "Source", "cache_folder", "fetch", "found", "where"]


class Source(NamedTuple):
    """Where a file comes from, and what it must be."""

    url: str | None  # None: not published in this form
    checksum: str | None  # "sha256:..." or "md5:..."


def _published(name: str, url: str, digests: dict[str, str]) -> dict[str, Source]:
    return {f"{name}/{file}": Source(url + file, f"sha256:{digest}") for file, digest in digests.items()}


def _repacked(name: str, digests: dict[str, str]) -> dict[str, Source]:
    return {f"{name}/{file}": Source(None, f"sha256:{digest}") for file, digest in digests.items()}


_AMAT_GZ = {
    "binarized_mnist_train.amat.gz": "3daacdec8912b91d242fc67e6a4905c8a5d111b6a355510b024e6fb628e8f43d",
    "binarized_mnist_valid.amat.gz": "442e6edec307bcba59c5b46c055c9871e640fc43eeae0a8bf8f60d760e0d883a",
    "binarized_mnist_test.amat.gz": "ca5952aa9aa5bdd98f53bdd270c026af273351bc255d1ea373668ea83a773ede",
}

# The sha256 of mnist are those of the canonical files, whose md5 are the published ones; those of
# fashion_mnist, binarized_mnist (.amat), omniglot (.zip) and cifar10 (.tar.gz) are in
# tensorflow_datasets/url_checksums. The md5 of caltech101_silhouettes is in google-deepmind's dm_nevis; no
# sha256 of it is published. Those of posteriordb [magnusson2024] are of the files as its repository held them
# in 2026. The .amat.gz and .bin.xz are repackings for a local folder, without a URL.
FILES: dict[str, Source] = {
    **_published(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    **_published(
        "fashion_mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    **_published(
        "binarized_mnist",
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        {
            "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        },
    ),
    **_repacked("binarized_mnist", _AMAT_GZ),
    **_published(
        "omniglot",
        "https://github.com/brendenlake/omniglot/raw/master/python/",
        {
            "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
            "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        },
    ),
    # anyone's own packing: no checksum can be known, only its shapes are checked
    "omniglot/omniglot.npz": Source(None, None),
    "caltech101_silhouettes/caltech101_silhouettes_28_split1.mat": Source(
        "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
        "md5:4483e9c14b188fd09937f9ea6f9ea777",
    ),
    **_published(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    **_repacked(
        "cifar10",
        {
            "data_batch_1.bin.xz": "7854ef2eb3bf1c9f426c079ccd35bea5dda80aca65679f9af02698fb449811b1",
            "test_batch_first1000.bin.xz": "1508cd774b288c812b8e9ca984d118812cb2ffa7e41264475c2cb11551b4bd80",
        },
    ),
    **_published(
        "posteriordb/data",
        "https://github.com/stan-dev/posteriordb/raw/master/posterior_database/data/data/",
        {
            "arK.json.zip": "6f2acbacb04655927bfc9173c42e51fc330bf08c6184242a62b7e39c22abe410",
            "earnings.json.zip": "06a67aa61a99d59aee057486dae51ffad6b4f887e7f8f17733739cf893af312f",
            "eight_schools.json.zip": "8e37cc01fe05b0e1779255e9bd386261f3d61daf7f75f02f72f38cdc9750531c",
            "gp_pois_regr.json.zip": "9aaaa9d5694b74e2aefa6d0bd2f0a48637fcb4d455a74b33985e58154f285da9",
            "kidiq.json.zip": "16d341a99ec8178231eab660d8fda084a44145f6a241daf35276d0192d13b92d",
            "low_dim_gauss_mix.json.zip": "9b5ea284321417a7816b0426a0c96788a6824e6ceb4ec4ecd89493779720b8f9",
            "mesquite.json.zip": "ec9db3a2e390892473e6172d76386ba9b26c3633a9682532eb34217189dcb0ac",
            "sblrc.json.zip": "81990278b8762ac79244afcd470861560c7b28e34e411ce6da814e6f632a1b81",
        },
    ),
    **_published(
        "posteriordb/draws",
        "https://github.com/stan-dev/posteriordb/raw/master/posterior_database/reference_posteriors/draws/draws/",
        {
            "arK-arK.json.zip": "7ddb947e6c1ac5380f9c1e1fa101833a1236ef03de30f2cf5ece7b5b71841530",
            "earnings-logearn_height_male.json.zip": "9a19f3bc043903c58ea4a2713f79b1d5af93d59ebf572f95f6c0e4d0a351d4a0",
            "eight_schools-eight_schools_noncentered.json.zip": "0858641e630c877103dba2b78beaf6bc1f39435fc43d2894c4dff5d609c7a264",  # noqa: E501
            "gp_pois_regr-gp_regr.json.zip": "df89f5011d9518b06c95a631c258ce03f4818b78deb40ed069cfd1d70074c8bb",
            "kidiq-kidscore_momiq.json.zip": "ee5deb23bf2dad804393c682b308da720825f9b099c37d774526c3a5a590e8d7",
            "low_dim_gauss_mix-low_dim_gauss_mix.json.zip": "422de750b20aef29c7b86f6bfa88dd9759050b6ffeb3588c004d6a4861c1e776",  # noqa: E501
            "mesquite-logmesquite_logvolume.json.zip": "cdd09ec3d81effe763ba71eb7e37f437e099924feefea151dd5233472768d091",  # noqa: E501
            "sblrc-blr.json.zip": "44f876cf35a038fcd1fd13fb19bbadf04b4308618ad41390050ae8b014a4592d",
        },
    ),
}


def fetch(*files: str) -> Path:
    """Return the path of the first of `files` (the same content, packed differently) that is here, or
    download one.

    Every file is compared with its checksum. Raises DataError: a wrong checksum, or neither a file nor a
    network.
    """
    for file in files:
        if path := found(file):
            _verify(path, file)
            return path
    return _download(next((f for f in files if FILES[f].url), files[0]))


def found(file: str) -> Path | None:
    """Return where `file` lies now, under PPL_DATA or in the cache, or None."""
    folders = [f for f in (_folder(), cache_folder()) if f is not None]
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def where(*files: str) -> str:
    """Say where `fetch` would take them from: "PPL_DATA folder", "cache", "download" or "missing"."""
    folder = _folder()
    for file in files:
        if path := found(file):
            return "PPL_DATA folder" if folder is not None and path == folder / file else "cache"
    downloads = any(FILES[f].url for f in files) and importlib.util.find_spec("pooch") is not None
    return "download" if downloads else "missing"


def _folder() -> Path | None:
    name = os.environ.get("PPL_DATA")
    return Path(name).expanduser() if name else None


def cache_folder() -> Path | None:
    """Return the folder where downloads are kept, or None where pooch, which knows it, is missing."""
    try:
        import pooch
    except ImportError:
        return None
    return Path(pooch.os_cache("ppl-models"))


def _by_hand(file: str) -> str:
    """Say where to put a file that this machine cannot download."""
    folder = (_folder() or Path("<the folder named by the environment variable PPL_DATA>")) / file
    cached = cache_folder()
    return f"put it at {folder}" + (f" or at {cached / file}" if cached else "")


def _download(file: str) -> Path:
    url, checksum = FILES[file]
    if url is None or checksum is None:
        raise DataError(f"{file} is not published for download and no checksum of it is recorded: {_by_hand(file)}")
    cached = cache_folder()
    if cached is None:
        raise DataError(f"{file} is not here, and downloading needs pooch: pip install pooch, or {_by_hand(file)}")
    import pooch

    bar = importlib.util.find_spec("tqdm") is not None
    target = cached / file
    try:
        got = pooch.retrieve(url, known_hash=checksum, fname=target.name, path=target.parent, progressbar=bar)
    except ValueError as error:  # how pooch says that the hash differs: it states expected and found
        raise DataError(f"{file} as downloaded from {url} is not the expected file ({error})") from None
    except OSError as error:  # every error of the network is one
        raise DataError(
            f"{file} is not here and cannot be downloaded ({type(error).__name__}): "
            f"get {url} ({checksum.replace(':', ' ')}) on another machine and {_by_hand(file)}"
        ) from None
    return Path(got)


def _verify(path: Path, file: str) -> None:
    source = FILES[file]
    if source.checksum is None:
        return
    method, expected = source.checksum.split(":")
    stat = path.stat()
    actual = _digest(path, method, stat.st_mtime_ns, stat.st_size)
    if actual != expected:
        again = f"get it again from {source.url}" if source.url else "copy it again"
        raise DataError(
            f"{path} is not the expected file: its {method} should be {expected} and is {actual}: delete it and {again}"
        )


@cache  # a file is read for its checksum once a process, and again only if it has changed
def _digest(path: Path, method: str, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, method).hexdigest()
