"""User errors of the demo, the benchmarks and the studies."""

from __future__ import annotations

import pytest

from tests.helpers.user_errors import check_user_error, rows

FOLDERS = '--out so --work-dir sw'
#: Errors in arguments of all studies, and in those of each.
_OF_ALL_STUDIES = [
    ('--out file', 2, 'file is a file'),
    ('--work-dir file/x', 2, 'is a file; choose another'),
    (f'{FOLDERS} --plot-only', 1, 'without --plot-only first'),
    ('--out broken --plot-only', 1, 'must hold the results of this study, and is not JSON'),
    ('--out notes', 1, 'must have one line <!-- begin results -->'),
    ('--seeds x', 2, "got 'x'"),
    ('--seeds -1', 2, "got '-1'"),
    ('--sed 1', 2, '--seeds'),
    ('--seeds', 2, '--seeds: expected at least one'),
    ('--seeds 4294967296', 2, r"in \[0, 4294967295\], got '4294967296'"),
    ('--plot_only', 2, 'did you mean --plot-only'),
    ('x', 2, 'takes nothing'),
    ("--out ''", 2, 'is empty'),
]
_ONE_STEP = f'{FOLDERS} --workers 1 --seeds 0 --imbalance 50 --steps 1'
STUDY_MISTAKES = {
    'noise_tolerance': [
        (f'{FOLDERS} --data mixtur', 2, 'did you mean mixture'),
        (f'{FOLDERS} --objectives cotap', 2, 'did you mean CoTAP'),
        (f'{FOLDERS} --objectives MSE', 2, '--objectives must contain CoTAP.*got MSE'),
        (f'{FOLDERS} --lrs nan', 2, "must be a number > 0, got 'nan'"),
        (f'{FOLDERS} --batch 1', 2, ">= 2, got '1'"),
        (f'{FOLDERS} --held-out 19', 2, ">= 20, got '19'"),
        (f'{FOLDERS} --seeds 1000', 2, 'seed 1000 is for tuning'),
        (f'{FOLDERS} --device cuda:9', 2, 'cuda:9'),
        (f'{_ONE_STEP} --imbalance 0.5', 1, 'imbalance must be >= 1, got 0.5'),
        (f'{_ONE_STEP} --data digits --train-size 10000', 1, 'digits leave 95 .* lower train_size'),
        ('--quick', 1, 'give --out another folder'),
    ],
    'over_dispersion': [
        (f'{FOLDERS} --data toyy', 2, 'did you mean toy'),
        (f'{FOLDERS} --data camvid --camvid images', 1, '--camvid images .* has no images/train'),
        (f'{FOLDERS} --iters 0', 2, "got '0'"),
        (f'{FOLDERS} --interval 0', 2, "got '0'"),
        (f'{FOLDERS} --cfg-options x', 2, "KEY=VALUE, got 'x'"),
        (f'{FOLDERS} --cfg-options modell.x=1', 1, "did you mean 'model'"),
        (f'{FOLDERS} --cfg-options train_cfg.max_iters=x', 1, "max_iters.* got 'x'"),
    ],
    'do_no_harm': [
        (f'{FOLDERS} --variants LoRA', 2, "did you mean 'LoRA 8'|did you mean LoRA 8"),
        (f'{FOLDERS} --data camvid --camvid images', 1, '--camvid images .* has no images/train'),
        (f'{FOLDERS} --workers 0', 2, "got '0'"),
    ],
    'foregrounds': [
        (f'{FOLDERS} --data racoon', 2, 'did you mean raccoon'),
        (f'{FOLDERS} --data camvid --camvid images', 1, '--camvid images .* has no images/train'),
        (f'{FOLDERS} --data raccoon --raccoon nowhere', 1, '--raccoon nowhere .* has no images'),
        (f'{FOLDERS} --images 0', 2, "got '0'"),
        (f'{FOLDERS} --checkpoint nowhere.pth', 1, 'nowhere.pth'),
    ],
    'pairs_per_image': [
        (f'{FOLDERS} --camvid nowhere', 1, '--camvid nowhere .* has no images/train'),
        (f'{FOLDERS} --camvid picture.png', 1, '--camvid picture.png must be a folder'),
        (f'{FOLDERS} --topk -1', 2, "got '-1'"),
        (f'{FOLDERS} --iters x', 2, "got 'x'"),
        (f'{FOLDERS} --workers 0', 2, "got '0'"),
        (f'{FOLDERS} --cfg-options a=[1', 2, "unbalanced brackets in 'a=.1'"),
    ],
    'sensitivity': [
        (f'{FOLDERS} --config nowhere.py', 1, 'nowhere.py does not exist'),
        (f'{FOLDERS} --config images', 1, 'got the folder images'),
        (f'{FOLDERS} --config syntax.py', 1, 'SyntaxError'),
        (f'{FOLDERS} --config empty.py', 1, 'sets no model'),
        (f'{FOLDERS} --config tiny.py', 1, '--config tiny.py must train on toy scenes'),
        (f'{FOLDERS} --parameters taau', 2, 'did you mean tau'),
        (f'{FOLDERS} --batch-size 9 --train-images 4', 2, 'at most --train-images, 4, got 9'),
    ],
}
STUDY_MISTAKES = {
    f'studies/{name}': _OF_ALL_STUDIES + rows for name, rows in STUDY_MISTAKES.items()
}

MISTAKES = {
    'demo': [
        ('--config nowhere', 1, 'nowhere does not exist'),
        ('--config images', 1, 'the folder images'),
        ('--config picture.png', 1, 'got picture.png'),
        ('--config tiny.py', 1, 'demo=dict'),
        ('--config syntax.py', 1, 'SyntaxError'),
        ('--config empty.py', 1, 'sets no model'),
        ('--config betas.py', 1, 'optim_wrapper.optimizer.betas: expected two numbers'),
        ('--seeds', 2, '--seeds: expected at least one'),
        ('--seeds x', 2, "got 'x'"),
        ('--seeds -1', 2, "got '-1'"),
        ('--seeds 1.5', 2, "got '1.5'"),
        ('--iters 0', 2, "got '0'"),
        ('--iters x', 2, "got 'x'"),
        ('--work-dir file', 2, 'file is a file'),
        ('--work-dir file/x', 2, 'is a file; choose another'),
        ('--from-scrach', 2, 'did you mean --from-scratch'),
        ('images', 2, 'takes nothing'),
    ],
    'benchmark': [
        ('', 2, 'required: kind'),
        ('los', 2, 'did you mean loss'),
        ('loss --pairs x', 2, "got 'x'"),
        ('loss --pairs 0', 2, "got '0'"),
        ('loss --runs 0', 2, "got '0'"),
        ('loss --methods pair', 2, 'did you mean pairwise'),
        ('loss --device cuda:9', 2, 'cuda:9'),
        ('loss --json file/x.json', 2, 'is a file; choose another'),
        ('loss --plot p.txt', 2, 'must end in .png'),
        ('step', 2, 'required: config'),
        ('step nowhere.py', 1, 'nowhere.py does not exist'),
        ('step tiny.py --batch-size 0', 2, "got '0'"),
        ('step tiny.py --cfg-options x', 2, "got 'x'"),
        ('data nowhere', 1, 'nowhere does not exist'),
        ('data empty', 1, 'contains no images'),
        ('transfer nowhere.py --variant a', 1, 'nowhere.py does not exist'),
        ('transfer tiny.py --variant a init', 1, "KEY=VALUE .* got 'init'"),
        ('transfer tiny.py --variant a --seeds x', 2, "got 'x'"),
    ],
    **STUDY_MISTAKES,
}


@pytest.mark.parametrize('tool, arguments, status, text', rows(MISTAKES))
def test_user_error_is_one_sentence(tools, place, capsys, tool, arguments, status, text):
    check_user_error(tools(tool).main, place, capsys, arguments, status, text)
