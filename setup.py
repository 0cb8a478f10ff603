"""Metadata and packages; settings of the tools live in pyproject.toml.

Packages are listed by hand: discovery would find `twisted` beside `dlba` and stop. Only
`twisted.plugins` is ours there, and it has no `__init__.py`: one would hide Twisted.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"$', (HERE / "dlba" / "__init__.py").read_text("utf-8"), re.MULTILINE
)
if VERSION is None:
    raise SystemExit('dlba/__init__.py: __version__: expected one line __version__ = "…", got none')

TEST = [
    "coverage>=7.10",
    "hypothesis>=6.100",
    "jsonschema>=4.18",
    "pytest>=8",
    "pytest-twisted>=1.14",
    # A real client and server for upgraded connections.
    "websockets>=14",
]

setup(
    name="dlba",
    version=VERSION[1],
    description="Array of equal nodes behind one virtual IP: TLS, persistence, direct return",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The DLBA authors",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 2 - Pre-Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Internet :: Proxy Servers",
        "Topic :: System :: Networking",
    ],
    python_requires=">=3.11",
    packages=[
        "dlba",
        "dlba.config",
        "dlba.doctor",
        "dlba.election",
        "dlba.lab",
        "dlba.monitor",
        "dlba.routing",
        "dlba.web",
        "twisted.plugins",
    ],
    # An editable install must put this folder itself on the path: the kinds that map single
    # packages hide twisted/plugins from twistd, which then says "Unknown command: dlba".
    options={"editable_wheel": {"mode": "compat"}},
    install_requires=[
        "PyYAML>=6.0",
        "attrs>=23.2",
        "pyopenssl>=26.2",
        "pyroute2>=0.9",
        "scapy>=2.6",
        "service-identity>=24.1",
        # 26.10 mends HTTP/2 rapid reset and header smuggling, among others.
        "twisted>=26.10",
    ],
    extras_require={
        "test": TEST,
        "dev": [
            *TEST,
            "mypy>=1.15",
            "mypy-zope>=1.0.11",
            "ruff>=0.9",
            "towncrier>=24.8",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["dlba = dlba.cli:main"]},
    zip_safe=False,
)
