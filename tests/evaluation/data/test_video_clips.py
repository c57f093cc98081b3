from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.evaluation.data.label_files import read_label
from cotap_mm.evaluation.data.video import Clip, VideoClips
from cotap_mm.registry import DATASETS, build


def write(path, values, palette=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if palette:  # like DAVIS: values are indices, colors are irrelevant
        image = image.convert('P')
        image = Image.fromarray(np.asarray(values, dtype=np.uint8), mode='P')
        image.putpalette([200, 7, 9] * 256)
    image.save(path)


def frame(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (6, 4), (1, 2, 3)).save(path)


def davis(root, clips=('bear', 'ant'), count=5, annotated=range(5)):
    for name in clips:
        for i in range(count):
            frame(root / f'JPEGImages/480p/{name}/{i:05d}.jpg')
        for i in annotated:
            write(root / f'Annotations/480p/{name}/{i:05d}.png', [[0, 1, 2]] * 4)
    lists = root / 'ImageSets/2017/val.txt'
    lists.parent.mkdir(parents=True, exist_ok=True)
    lists.write_text('\n'.join(clips) + '\n')
    return root


def camvid(root, names, split='val'):
    for name in names:
        frame(root / f'images/{split}/{name}.jpg')
        write(root / f'labels/{split}/{name}.png', [[0, 3, 255]] * 4, palette=False)
    return root


def test_davis_layout(tmp_path):
    clips = VideoClips.davis(davis(tmp_path))
    assert [clip.name for clip in clips] == ['bear', 'ant']  # order of the list
    clip = clips[0]
    assert [path.name for path in clip.frames] == [f'{i:05d}.jpg' for i in range(5)]
    assert clip.scored == [1, 2, 3]  # without the first and last frame
    assert clip.objects() == [1, 2] and clip.background
    assert clip.mask(2).tolist() == [[0, 1, 2]] * 4  # indices, not colors


def test_missing_davis_files_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match='val.txt does not exist; DAVIS-2017 has'):
        VideoClips.davis(tmp_path)
    davis(tmp_path, annotated=[3])
    with pytest.raises(FileNotFoundError, match=r'00000\.png does not exist; the first frame'):
        VideoClips.davis(tmp_path)


def test_only_masks_that_exist_are_scored(tmp_path):
    assert VideoClips.davis(davis(tmp_path / 'a', annotated=[0, 3, 4]))[0].scored == [3]
    assert VideoClips.davis(davis(tmp_path / 'b', annotated=[0]))[0].scored == []


def test_folder_of_frames(tmp_path):
    for i in (1, 2, 10):
        frame(tmp_path / f'frames/f{i}.jpg')
    write(tmp_path / 'masks/f1.png', [[0, 4, 7]] * 4)
    write(tmp_path / 'masks/f10.png', [[0, 4, 255]] * 4)
    (clip,) = VideoClips.folder(tmp_path)
    assert [path.stem for path in clip.frames] == ['f1', 'f2', 'f10']  # by number
    assert clip.objects() == [4, 7] and clip.scored == [2] and clip.name == tmp_path.name
    assert clip.mask(2).tolist() == [[0, 4, 255]] * 4


def test_masks_of_0_and_255_are_one_object(tmp_path):
    for i in range(3):
        frame(tmp_path / f'frames/{i}.png')
        write(tmp_path / f'masks/{i}.png', [[0, 255, 255 * (i > 0)]] * 4, palette=False)
    (clip,) = VideoClips.folder(tmp_path)
    assert clip.objects() == [1]
    assert clip.mask(0).tolist() == [[0, 1, 0]] * 4 and clip.mask(2).tolist() == [[0, 1, 1]] * 4


def test_first_frame_needs_a_mask_with_an_object(tmp_path):
    frame(tmp_path / 'frames/0.png')
    frame(tmp_path / 'frames/1.png')
    write(tmp_path / 'masks/1.png', [[0, 1, 1]] * 4)
    with pytest.raises(FileNotFoundError, match=r'masks/0\.png does not exist'):
        VideoClips.folder(tmp_path)
    write(tmp_path / 'masks/0.png', [[0, 0, 0]] * 4)
    with pytest.raises(ValueError, match='shows no object'):
        VideoClips.folder(tmp_path)[0].objects()
    Image.new('RGB', (3, 4)).save(tmp_path / 'masks/0.png')
    with pytest.raises(ValueError, match=r'masks/0.png must have one channel .*RGB'):
        read_label(tmp_path / 'masks/0.png')


def test_camvid_drives_are_cut_at_gaps_and_by_length(tmp_path):
    names = [f'Seq05VD_f{i:05d}' for i in (0, 30, 60, 89, 120, 300, 330, 900)]
    names += [f'0001TP_{i:06d}' for i in (8, 10, 12)]
    clips = VideoClips.camvid(camvid(tmp_path, names), max_length=3)
    found = [[path.stem for path in clip.frames] for clip in clips]
    assert found == [
        ['0001TP_000008', '0001TP_000010', '0001TP_000012'],
        ['Seq05VD_f00000', 'Seq05VD_f00030'],  # five consecutive frames: 2 + 3
        ['Seq05VD_f00060', 'Seq05VD_f00089', 'Seq05VD_f00120'],
        ['Seq05VD_f00300', 'Seq05VD_f00330'],
    ]  # f00900 is a single frame
    assert [clip.name for clip in clips][:2] == ['0001TP_8', 'Seq05VD_0']
    assert list(clips[0].scored) == [1, 2]
    assert clips[0].objects() == [0, 3]  # 0 is a class, 255 is not


def test_invalid_camvid_names(tmp_path):
    with pytest.raises(ValueError, match='DRIVE_NUMBER, got street.jpg'):
        VideoClips.camvid(camvid(tmp_path, ['street']))
    with pytest.raises(ValueError, match='max_length must be an integer >= 2'):
        VideoClips.camvid(tmp_path, max_length=1)
    (tmp_path / 'labels/val/street.png').unlink()
    (tmp_path / 'images/val/street.jpg').rename(tmp_path / 'images/val/a_1.jpg')
    frame(tmp_path / 'images/val/a_2.jpg')
    with pytest.raises(FileNotFoundError, match=r'a_1\.png does not exist'):
        VideoClips.camvid(tmp_path)


def test_clips_from_configs(tmp_path):
    clips = build(DATASETS, dict(type='DAVISClips', root=str(davis(tmp_path / 'davis'))))
    assert len(clips) == 2
    names = ['a_0', 'a_1', 'a_2', 'a_3']
    clips = build(
        DATASETS,
        dict(
            type='CamVidClips',
            split='train',
            max_length=2,
            root=str(camvid(tmp_path / 'camvid', names, 'train')),
        ),
    )
    assert len(clips) == 2
    frame(tmp_path / 'clip/frames/0.jpg')
    write(tmp_path / 'clip/masks/0.png', [[0, 1, 1]] * 4)
    assert len(build(DATASETS, dict(type='FolderClip', root=str(tmp_path / 'clip')))) == 1


def test_clip_of_any_files(tmp_path):
    write(tmp_path / 'm.png', [[0, 5]])
    clip = Clip('mine', [tmp_path / 'a.jpg'], {0: tmp_path / 'm.png'}, scored=())
    assert clip.mask(0).dtype == torch.int64 and clip.objects() == [5]


def test_real_camvid_has_four_drives(shared_data):
    clips = VideoClips.camvid(shared_data / 'data' / 'camvid', 'val', max_length=25)
    assert {clip.name.split('_')[0] for clip in clips} == {'0016E5'}
    assert sum(len(clip.frames) for clip in clips) == 101
    train = VideoClips.camvid(shared_data / 'data' / 'camvid', 'train', max_length=1000)
    # The third drive has two long gaps.
    assert [clip.name for clip in train] == [
        '0001TP_6690',
        '0006R0_930',
        '0016E5_390',
        '0016E5_4350',
        '0016E5_8190',
    ]
