"""User errors of tools that load an encoder."""

from __future__ import annotations

import pytest

from tests.helpers.user_errors import (
    COMPARE,
    EMBED,
    LOOK,
    MEASURE,
    NO_CHECKPOINTS,
    NO_IMAGES,
    check_user_error,
    rows,
)

MISTAKES = {
    'evaluate': [
        ('', 2, 'required: BACKBONE, --protocol'),
        *((f'{name} {MEASURE}', 1, text) for name, text in NO_CHECKPOINTS.items()),
        (f'data iter_1.pth {MEASURE}', 1, 'data'),
        (f'iter_1.pth iter_1.pth {MEASURE}', 1, "two backbones are called 'iter_1'"),
        (f'iter_1.pth@bakbone {MEASURE}', 1, 'iter_1.pth@bakbone'),
        (f'iter_1.pth {MEASURE} --devise cpu', 2, r'did you mean --device\?'),
        (f'iter_1.pth {MEASURE} --device gpu', 2, "cpu, cuda or cuda:N, got 'gpu'"),
        (f'iter_1.pth {MEASURE} --device cuda:9', 2, 'cuda:9'),
        (f'iter_1.pth {MEASURE} --device meta', 2, 'meta cannot be used'),
        (f'iter_1.pth {MEASURE} --limit x', 2, "--limit: .* got 'x'"),
        (f'iter_1.pth {MEASURE} --limit 0', 2, "--limit: .* got '0'"),
        (f'iter_1.pth {MEASURE} --image-size -1', 2, "--image-size: .* got '-1'"),
        (f'iter_1.pth {MEASURE} --image-size 8 8 8', 2, 'one or two numbers'),
        (f'iter_1.pth {MEASURE} --set purity', 2, "KEY=VALUE, got 'purity'"),
        (f'iter_1.pth {MEASURE} --set puritty=1', 1, 'puritty.* did you mean purity'),
        *(
            (
                f'iter_1.pth {MEASURE} --set purity={value}',
                1,
                f'purity of .* must be .* got {value}',
            )
            for value in ('nan', 'inf', '-1', '0', '1.5')
        ),
        (f'iter_1.pth {MEASURE} --network teachr', 2, 'did you mean teacher'),
        (f'iter_1.pth {MEASURE} --num-heads 5', 1, 'must divide the width .* got 5'),
        (f'iter_1.pth {MEASURE} --seed -1', 2, "got '-1'"),
        (f'iter_1.pth {MEASURE} --out file', 2, 'file is a file'),
        (f'iter_1.pth {MEASURE} --out file/x', 2, 'is a file; choose another'),
        (f'iter_1.pth {MEASURE} --root nowhere', 1, 'nowhere'),
        (f'iter_1.pth {MEASURE} --root empty', 1, 'empty'),
        (f'iter_1.pth {MEASURE} --protocol dispersoin', 1, "got 'dispersoin'"),
        (f'iter_1.pth {MEASURE} --protocol knn', 1, 'knn needs data for classification'),
        (f'iter_1.pth {MEASURE} --data camvidd', 1, "got 'camvidd'"),
        (f'iter_1.pth {MEASURE} --data picture.png', 1, 'picture.png'),
        (f'iter_1.pth {MEASURE} --protocol linear-seg', 1, 'images/train'),
    ],
    'compare': [
        ('', 2, r'required: \[NAME=\]BACKBONE, --data'),
        (f'iter_1.pth {COMPARE}', 1, 'at least two backbones, got iter_1; cotap evaluate'),
        (f'iter_1.pth iter_1.pth {COMPARE}', 1, "two backbones are called 'iter_1'"),
        (f'iter_1.pth nowhere.pth {COMPARE}', 1, 'nowhere.pth is not a file'),
        (f'iter_1.pth page.pth {COMPARE}', 1, 'page.pth is damaged'),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --protocol knn', 1, 'knn needs data for class'),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --set kk=1', 1, '--set kk: dispersion has no'),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --kinds pcaa', 2, 'did you mean pca'),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --shown 0', 2, "got '0'"),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --data camvidd', 1, "got 'camvidd'"),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --out texts', 1, 'report.html exists and is not'),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --out file', 2, 'file is a file'),
        (f'a=iter_1.pth b=iter_1.pth {COMPARE} --device cuda:9', 2, 'cuda:9'),
    ],
    'embed': [
        ('', 2, 'required: checkpoint, --images, --out'),
        *((f'{name} {EMBED}', 1, text) for name, text in NO_CHECKPOINTS.items()),
        *((f'iter_1.pth --out f.npz --images {name}', 1, text) for name, text in NO_IMAGES.items()),
        ('iter_1.pth --images images --out f.csv', 2, "end in .npz, .parquet, .zarr, got 'f.csv'"),
        ('iter_1.pth --images images --out file/f.npz', 2, 'is a file; choose another folder'),
        (f'iter_1.pth {EMBED} --out other.npz', 1, 'other.npz exists and is not a feature file'),
        (f'iter_1.pth {EMBED} --features clss', 2, 'did you mean cls'),
        (f'iter_1.pth {EMBED} --features patches --size original', 1, 'patches need images of one'),
        (f'iter_1.pth {EMBED} --size 0', 2, "got '0'"),
        (f'iter_1.pth {EMBED} --size 8 8 8', 2, 'one or two numbers'),
        (f'iter_1.pth {EMBED} --size orignal', 2, "got 'orignal'"),
        (f'iter_1.pth {EMBED} --dtype float8', 2, 'did you mean float'),
        (f'iter_1.pth {EMBED} --batch-size 0', 2, "got '0'"),
        (f'iter_1.pth {EMBED} --workers -1', 2, "got '-1'"),
        (f'iter_1.pth {EMBED} --device cuda:9', 2, 'cuda:9'),
        (f'iter_1.pth {EMBED} --output filtr', 2, 'did you mean filter'),
        (f'iter_1.pth {EMBED} --num-heads 5', 1, 'must divide the width .* got 5'),
    ],
    'visualize': [
        ('', 2, 'required: .*CHECKPOINT, --images, --out'),
        *((f'{name} {LOOK}', 1, text) for name, text in NO_CHECKPOINTS.items()),
        *((f'iter_1.pth --out out --images {name}', 1, text) for name, text in NO_IMAGES.items()),
        (f'images iter_1.pth {LOOK}', 1, 'images'),
        (f'iter_1.pth {LOOK} --kinds pcaa', 2, 'did you mean pca'),
        (f'iter_1.pth {LOOK} --kinds classes', 1, 'needs --labels'),
        (f'iter_1.pth {LOOK} --kinds compare', 1, 'needs at least two checkpoints'),
        (f'iter_1.pth {LOOK} --labels nowhere', 1, 'nowhere'),
        (f'iter_1.pth {LOOK} --labels images --kinds classes', 1, 'one channel'),
        (
            'iter_1.pth --images data/images/val --labels data/labels/val --classes a --out out '
            '--size 32 32 --device cpu --kinds classes',
            1,
            '--classes names 1 .* name all 2',
        ),
        (f'iter_1.pth {LOOK} --size 32', 2, '--size: expected 2 arguments'),
        (f'iter_1.pth {LOOK} --size 0 32', 2, "got '0'"),
        (f'iter_1.pth {LOOK} --limt 3', 2, 'did you mean --limit'),
        (f'iter_1.pth {LOOK} --limit -1', 1, 'must be positive, got -1'),
        (f'iter_1.pth {LOOK} --scale nan', 1, '--scale must be positive, got nan'),
        (f'iter_1.pth {LOOK} --scale 1e9', 1, '16384'),
        (f'iter_1.pth {LOOK} --window 1 --kinds pca', 1, 'window must be at least'),
        (f'iter_1.pth {LOOK} --clusters 1 --kinds clusters', 1, 'got 1'),
        (f'iter_1.pth {LOOK} --patch 9 0 0 --kinds similarity', 1, 'got 9 0 0'),
        (f'iter_1.pth {LOOK} --config camvid_linear --kinds crops', 1, 'not a pre-training'),
        (f'iter_1.pth {LOOK} --out file', 2, 'file is a file'),
        (f'iter_1.pth {LOOK} --out texts', 1, 'report.html exists and is not a report of'),
        (f'iter_1.pth {LOOK} --device cuda:9', 2, 'cuda:9'),
    ],
    'viewer': [
        ('', 2, 'required'),
        ('iter_1.pth', 2, 'required: --images'),
        ('images --images iter_1.pth --port 0', 1, 'images'),
        ('nowhere.pth --images images --port 0', 1, 'nowhere.pth is not a file'),
        ('page.pth --images images --port 0', 1, 'page.pth is damaged'),
        ('iter_1.pth --images nowhere --port 0', 1, 'folder nowhere does not exist'),
        ('iter_1.pth --images empty --port 0', 1, 'contains no images'),
        ('iter_1.pth --images texts --port 0', 1, 'contains no images'),
        ('iter_1.pth --images images --port 80000', 2, r"--port: .*\[0, 65535\], got '80000'"),
        ('iter_1.pth --images images --port -1', 2, "got '-1'"),
        ('iter_1.pth --images images --port http', 2, "got 'http'"),
        ('iter_1.pth --images images --host no-such-host.invalid', 1, 'cannot be resolved'),
        ('iter_1.pth --images images --host 192.0.2.1', 1, 'another --host'),
        (
            'iter_1.pth --images images --allow-host https://x.org',
            2,
            "a name like .* got 'https://x.org'",
        ),
        ('iter_1.pth --images images --root-path viewer', 2, "a path like /viewer .* got 'viewer'"),
        ('iter_1.pth --images images --root_path /viewer', 2, 'did you mean --root-path'),
        ('iter_1.pth --images images --shown 0', 2, "got '0'"),
        ('iter_1.pth --images images --device cuda:9', 2, 'cuda:9'),
        ('iter_1.pth --images images --output filtr', 2, 'did you mean filter'),
    ],
}


@pytest.mark.parametrize('tool, arguments, status, text', rows(MISTAKES))
def test_user_error_is_one_sentence(tools, place, capsys, tool, arguments, status, text):
    if tool == 'viewer' and status == 1:  # found after Gradio has been imported
        pytest.importorskip('gradio')
    check_user_error(tools(tool).main, place, capsys, arguments, status, text)
