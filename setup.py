"""Package cotap_mm; ship configs and tools in ``.mim``, as the OpenMMLab packages do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'tools')
# Python runs it when it starts: MMSegmentation and MMDetection find the operators that cotap_mm
# provides without importing it. tools/setup_env.sh copies it for editable installs.
STARTUP = 'cotap_mm_mmcv_lite.pth'
# Not in requirements/, since a compiled mmcv, which excludes mmcv-lite, is as good.
# MMSegmentation and MMDetection reject 2.2.
MMCV = 'mmcv-lite>=2.1.0,<2.2.0'


def read_requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def read_version():
    scope = {}
    exec((ROOT / 'cotap_mm' / 'version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def ship(target, link):
    """Link or copy configs and tools to ``target/.mim``."""
    shelf = Path(target) / '.mim'
    shelf.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        place = shelf / name
        if place.is_symlink():
            place.unlink()
        elif place.is_dir():
            shutil.rmtree(place)
        if link:
            os.symlink(os.path.relpath(ROOT / name, shelf), place)
        else:
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns('__pycache__'))


class BuildPy(build_py):
    """Copy configs and tools into the wheel."""

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            ship(Path(self.build_lib) / 'cotap_mm', link=False)
            shutil.copy(ROOT / 'cotap_mm' / 'assets' / STARTUP, self.build_lib)
        else:
            ship(ROOT / 'cotap_mm', link=True)


class Develop(develop):
    """Link configs and tools for ``pip install -e .``."""

    def run(self):
        super().run()
        ship(ROOT / 'cotap_mm', link=True)


MM = [*read_requirements('mminstall'), MMCV]
EXTRAS = {
    'mm': MM,
    'mmseg': [*MM, *read_requirements('mmseg')],
    'mmdet': [*MM, *read_requirements('mmdet')],
    'downstream': [*MM, *read_requirements('mmseg'), *read_requirements('mmdet')],
    'pack': read_requirements('pack'),
    'viewer': read_requirements('viewer'),
    'timm': ['timm'],
    's3': ['s3fs'],  # images in an object store
    'gs': ['gcsfs'],
    'embed': ['pyarrow', 'zarr'],  # formats of cotap embed besides *.npz
    'export': ['safetensors', 'onnx'],
    'faiss': ['faiss-cpu'],
    'heif': ['pillow-heif'],
    'jpeg': ['simplejpeg'],  # decodes JPEGs faster
    'hub': ['huggingface_hub', 'safetensors'],
    'notebooks': ['jupyterlab', 'ipykernel'],
}
# Everything for users; openmim pins old packages and needs an environment of its own.
EXTRAS['all'] = sorted({line for lines in EXTRAS.values() for line in lines})
EXTRAS['tests'] = read_requirements('tests')
EXTRAS['docs'] = read_requirements('docs')
EXTRAS['mim'] = ['openmim']

setup(
    name='cotap_mm',
    version=read_version(),
    description='CoTAP: self-supervised dense post-pretraining of vision transformers '
    'for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The cotap_mm Authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='self-supervised learning, vision transformer, dense features, semantic segmentation, '
    'OpenMMLab, DINO, PyTorch',
    project_urls={'Paper': 'https://arxiv.org/abs/2509.09429'},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(9, 15)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=('cotap_mm', 'cotap_mm.*')),
    package_data={'cotap_mm': ['assets/*', 'py.typed']},
    python_requires='>=3.9',
    install_requires=['torch>=2.1', 'torchvision>=0.16', *read_requirements('runtime')],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['cotap = cotap_mm.cli.main:cotap']},
    cmdclass={'build_py': BuildPy, 'develop': Develop},
    zip_safe=False,
)
