"""User errors of tools that write files for others."""

from __future__ import annotations

import pytest

from tests.helpers.user_errors import NEIGHBORS, NO_CHECKPOINTS, NO_IMAGES, check_user_error, rows

MISTAKES = {
    'convert': [
        ('', 2, 'required: checkpoint, out'),
        ('iter_1.pth', 2, 'required: out'),
        *((f'{name} o.pth', 1, text) for name, text in NO_CHECKPOINTS.items()),
        ('o.pth iter_1.pth', 1, 'iter_1.pth'),
        ('iter_1.pth iter_1.pth --overwrite', 1, 'is the checkpoint itself'),
        ('iter_1.pth ./iter_1.pth --overwrite', 1, 'is the checkpoint itself'),
        ('iter_1.pth o.txt', 1, r'\*.pth .*got o.txt'),
        ('iter_1.pth images', 1, 'got images'),
        ('iter_1.pth file/o.pth', 2, 'is a file; choose another'),
        ('iter_1.pth o.pth --to onx', 2, 'did you mean onnx'),
        ('iter_1.pth o.pth --to onnx', 1, r'\*.onnx, got o.pth'),
        ('iter_1.pth o.onnx --to onnx --size 0 0', 2, "got '0'"),
        ('iter_1.pth o.pth --source dinoo', 2, 'did you mean dino'),
        ('iter_1.pth o.pth --source hf', 1, 'iter_1.pth|hf'),
        ('iter_1.pth o.pth --num-heads 5', 1, 'must divide the width'),
        ('iter_1.pth o.pth --overwite', 2, 'did you mean --overwrite'),
        ("iter_1.pth ''", 2, 'is empty'),
        ('hf:repo o.pth', 1, "hub is hf:USER/REPO, .* got 'hf:repo'"),
        ('user/repo o.pth', 1, 'is not a file .did you mean hf:user/repo'),
    ],
    'publish': [
        ('', 2, 'required: checkpoint, out, --license'),
        ('iter_1.pth o.pth', 2, 'required: --license'),
        ('iter_1.pth o.pth --licence MIT', 2, r'--licence is unknown \(did you mean --license'),
        *(
            (f'{name} o.pth --license MIT', 1, text)
            for name, text in NO_CHECKPOINTS.items()
            if name != 'head.pth'
        ),
        ('o.pth iter_1.pth --license MIT', 1, 'o.pth is not a file'),
        ('iter_1.pth o.txt --license MIT', 2, "must end in .pth, got 'o.txt'"),
        ('iter_1.pth images --license MIT', 2, 'images is a folder'),
        ('iter_1.pth file/o.pth --license MIT', 2, 'is a file; choose another'),
        ("iter_1.pth o.pth --license ' '", 1, 'license must not be empty'),
        ('iter_1.pth o.pth --license MIT --network techer', 2, 'did you mean teacher'),
        ('iter_1.pth o.pth x --license MIT', 2, 'unrecognized arguments: x'),
        ('iter_1.pth --license MIT', 2, 'required: out'),
        ('iter_1.pth --format hf', 2, 'required: out'),
        ('iter_1.pth o --format onnx', 2, 'invalid choice'),
        ('iter_1.pth o.pth --format pth', 2, 'required: --license'),
        ('iter_1.pth o --format hf', 1, 'license of the initial weights .* --license'),
        ('iter_1.pth images --format hf --num-heads 5 --license MIT', 1, 'divide the width'),
        ('iter_1.pth file --format hf --license MIT', 2, 'file is a file; choose a folder'),
        ('o.pth o --format hf --license MIT', 1, 'o.pth is not a file'),
        ('iter_1.pth o.pth --name x --license MIT', 2, '--name requires --format hf or timm'),
        ('iter_1.pth o.pth --private --license MIT', 2, '--private requires --to-hub'),
        ('iter_1.pth --to-hub a/b --format pth', 2, '--to-hub needs a folder'),
        ('iter_1.pth --to-hub repo --license MIT', 1, "USER/REPO, got 'repo'"),
        ('iter_1.pth o --format hf --license MIT --results study.json', 1, 'study.json is not a r'),
        ('iter_1.pth o --format hf --license MIT --results nowhere.json', 1, 'nowhere.json'),
    ],
    'build_neighbors': [
        ('', 2, 'required: --out, --images'),
        ('--images images', 2, 'required: --out'),
        *((f'--images {name} {NEIGHBORS}', 1, text) for name, text in NO_IMAGES.items()),
        *(
            (f'--images images {NEIGHBORS} --checkpoint {name}', 1, text)
            for name, text in NO_CHECKPOINTS.items()
            if name != 'head.pth'
        ),
        (f'--images images {NEIGHBORS} --out n.txt', 2, "must end in .npy or .npz, got 'n.txt'"),
        (f'--images images {NEIGHBORS} --out images', 2, 'images is a folder'),
        *(
            (
                f'--images images {NEIGHBORS} --out {name}',
                1,
                f'{name} exists and is not a neighbor file',
            )
            for name in ('bad.npz', 'other.npz', 'other.npy')
        ),
        (f'--images images {NEIGHBORS} --image-size 30', 1, 'patch size, 8, got 30; use 24 or 32'),
        (f'--images images {NEIGHBORS} --image-size 7', 1, 'patch size, 8, got 7; use 8'),
        (f'--images images {NEIGHBORS} --out file/n.npy', 2, 'is a file; choose another'),
        (f'--images images {NEIGHBORS} --backbone tny.py', 1, 'tny.py does not exist'),
        (f'--images images {NEIGHBORS} --backbone deit-smal', 1, "deit-small.* got 'deit-smal'"),
        (f'--images images {NEIGHBORS} --num-neighbors 0', 2, "got '0'"),
        (f'--images images {NEIGHBORS} --nprobe 0', 2, "got '0'"),
        (f'--images images {NEIGHBORS} --search flat', 2, "choose from 'exact', 'ivf'"),
        (f'--images images {NEIGHBORS} --search ivf --faiss', 1, 'searches exactly'),
        (f'--images images {NEIGHBORS} --image-size x', 2, "got 'x'"),
        (f'--images images {NEIGHBORS} --batch-size 0', 2, "got '0'"),
        (f'--images images {NEIGHBORS} --workers -1', 2, "got '-1'"),
        (f'--images images {NEIGHBORS} --ann-file nowhere.txt', 1, 'nowhere.txt'),
        (f'--images images {NEIGHBORS} --checkpont x', 2, 'did you mean --checkpoint'),
    ],
    'pack_dataset': [
        ('', 2, 'required: --out, --images'),
        ('--images images', 2, 'required: --out'),
        *((f'--images {name} --out o.lmdb', 1, text) for name, text in NO_IMAGES.items()),
        ('--images images --out o.zip', 1, '.lmdb, got o.zip'),
        ('--images images --out images', 1, 'must be empty or a folder of cotap pack'),
        ('--images images --out bad.lmdb', 1, 'bad.lmdb exists and is not a file of packed images'),
        ('--images images --out file/o.lmdb', 2, 'is a file; choose another'),
        ('--images images --out o.lmdb --ann-file nowhere', 1, 'nowhere'),
        ('--images images --out o.lmdb --threads 0', 2, "got '0'"),
        ('--images images --out o.lmdb --treads 2', 2, 'did you mean --threads'),
        ("--images images --out ''", 2, "after '--out', is empty"),
    ],
}


@pytest.mark.parametrize('tool, arguments, status, text', rows(MISTAKES))
def test_user_error_is_one_sentence(tools, place, capsys, tool, arguments, status, text):
    check_user_error(tools(tool).main, place, capsys, arguments, status, text)
