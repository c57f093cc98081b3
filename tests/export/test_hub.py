"""Publishing on a hub on this machine, and loading from it."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip('huggingface_hub')
pytest.importorskip('safetensors')

from huggingface_hub import ModelCard  # noqa: E402

import cotap_mm  # noqa: E402
from cotap_mm.export import publish_folder, push  # noqa: E402
from cotap_mm.weights import load_pretrained  # noqa: E402
from tests.helpers.fake_hub import fake_hub  # noqa: E402
from tests.helpers.foreign_weights import timm_names  # noqa: E402
from tests.helpers.tiny import CONFIG, build_tiny  # noqa: E402

DINO = 'https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth'
TRAINED = f"""
model = dict(
    type='CoTAP',
    backbone=dict(arch=dict(num_heads=2)),
    init_cfg=dict(type='PretrainedViT', checkpoint='{DINO}'),
    losses=dict(patch_ranking=dict(threshold=-0.2)))
train_dataloader = dict(
    batch_size=28,
    dataset=dict(patch=dict(type='ImageList', root='/home/jane/secret/coco', ann_file='~/a.json')))
work_dir = '/home/jane/work'
vis_backends = [dict(type='WandbVisBackend', init_kwargs=dict(key='my-key'))]
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv('HF_TOKEN', 'hf_test')
    with fake_hub(monkeypatch, tmp_path / 'cache') as hub:
        yield hub


def checkpoint(config=TRAINED, **meta):
    torch.manual_seed(0)
    model = build_tiny()
    torch.nn.init.normal_(model.teacher.backbone.cls_token)
    return dict(
        state_dict=model.state_dict(),
        meta=dict(cfg=config, iter=1200, mmengine_version='0.10.7', seed=5, **meta),
        run_state=dict(world_size=4, samples_seen=134400),
    )


@pytest.mark.parametrize('library', ['hf', 'timm'])
def test_push_and_load(hub, library):
    content = checkpoint()
    url = push(content, 'user/cotap', library=library)
    assert url == f'{__import__("huggingface_hub").constants.ENDPOINT}/user/cotap'
    assert sorted(hub.repos['user/cotap']) == [
        '.gitattributes',
        'README.md',
        'config.json',
        'cotap_filter.safetensors',
        'model.safetensors',
        'preprocessor_config.json',
    ]
    ours, theirs = cotap_mm.load(content), cotap_mm.load('hf:user/cotap')
    assert theirs.weights_hash() == ours.weights_hash()
    assert 'README.md' not in hub.downloads
    report = load_pretrained(build_tiny(), 'hf:user/cotap')
    assert 'neck.prototypes' in report.loaded and report.teacher == 'student'
    assert not [name for name in report.missing if not name.startswith('head.')]


def test_private_repositories_and_the_teacher(hub, tmp_path):
    content = checkpoint()
    push(content, 'user/cotap', private=True, network='teacher', out=tmp_path / 'kept')
    assert 'user/cotap' in hub.private and (tmp_path / 'kept' / 'README.md').is_file()
    teacher = cotap_mm.load(content, network='teacher')
    assert cotap_mm.load('hf:user/cotap').weights_hash() == teacher.weights_hash()
    assert '| network | teacher |' in (tmp_path / 'kept' / 'README.md').read_text()


def test_a_repository_is_replaced_only_on_request(hub):
    push(checkpoint(), 'user/cotap')
    plain = timm_names()
    with pytest.raises(FileExistsError, match=r'user/cotap has files \(README.md, .*--overwrite'):
        push(plain, 'user/cotap', license='MIT', num_heads=2)
    push(plain, 'user/cotap', license='MIT', num_heads=2, overwrite=True)
    assert 'cotap_filter.safetensors' not in hub.repos['user/cotap']


def test_only_the_files_of_the_model_are_uploaded(hub, tmp_path):
    (tmp_path / 'private_notes.txt').write_text('mine')
    push(checkpoint(), 'user/cotap', out=tmp_path)
    assert 'private_notes.txt' not in hub.repos['user/cotap']


def test_errors_of_push(hub, monkeypatch):
    with pytest.raises(ValueError, match="USER/REPO, got 'cotap'"):
        push(checkpoint(), 'cotap')
    monkeypatch.setattr('huggingface_hub.get_token', lambda: None)
    with pytest.raises(OSError, match='requires an account: `hf auth login`, or set HF_TOKEN'):
        push(checkpoint(), 'user/cotap')
    monkeypatch.setattr('huggingface_hub.get_token', lambda: 'hf_test')
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:1')
    with pytest.raises(OSError, match='cannot publish user/cotap .* may write to it$'):
        push(checkpoint(), 'user/cotap')


def test_model_card(tmp_path):
    folder = publish_folder(checkpoint(), tmp_path / 'cotap-vits', data='COCO train2017')
    text = (folder / 'README.md').read_text()
    for secret in ('jane', 'secret', 'my-key', str(tmp_path)):
        assert secret not in text
    for fact in (
        f'| initial weights | DINO: {DINO} |',
        '| training images | COCO train2017 |',
        '| iterations | 1,200 |',
        '| images seen | 134,400 |',
        '| GPUs or processes | 4 |',
        '| images per GPU | 28 |',
        '| seed | 5 |',
        '| trained with | mmengine 0.10.7 |',
        f'cotap_mm {cotap_mm.__version__}',
        "cotap_mm.load('cotap-vits')",
        'The initial weights are those of DINO, apache-2.0 (https://github.com/',
        "'threshold': -0.2",  # tests print configs as plain Python
        '| network | student |',
    ):
        assert fact in text, fact
    data = ModelCard.load(folder / 'README.md').data
    assert data.license == 'apache-2.0' and data.pipeline_tag == 'image-feature-extraction'
    assert data.base_model == 'facebook/dino-vits16' and data.library_name == 'transformers'
    assert 'cotap' in data.tags


def test_data_without_a_name(tmp_path):
    folder = publish_folder(checkpoint(), tmp_path / 'a')
    assert '| training images | coco |' in (folder / 'README.md').read_text()


def test_license(tmp_path, caplog):
    unknown = checkpoint(CONFIG)
    with pytest.raises(
        ValueError, match=r'initial weights \(not recorded in the checkpoint\) is u'
    ):
        publish_folder(unknown, tmp_path / 'a')
    local = checkpoint(TRAINED.replace(DINO, '/home/jane/best.pth'))
    with pytest.raises(ValueError, match=r'weights \(best.pth\) is unknown; state .*--license'):
        publish_folder(local, tmp_path / 'a')
    assert not (tmp_path / 'a').exists()
    publish_folder(unknown, tmp_path / 'b', base_model='facebook/dino-vitb16')
    assert 'base_model: facebook/dino-vitb16' in (tmp_path / 'b' / 'README.md').read_text()
    publish_folder(checkpoint(CONFIG, license='MIT'), tmp_path / 'c')
    assert ModelCard.load(tmp_path / 'c' / 'README.md').data.license == 'mit'
    publish_folder(unknown, tmp_path / 'd', 'My Own License')
    data = ModelCard.load(tmp_path / 'd' / 'README.md').data
    assert (data.license, data.license_name) == ('other', 'my-own-license')
    with pytest.raises(ValueError, match='license must not be empty'):
        publish_folder(checkpoint(), tmp_path / 'e', ' ')


def test_a_license_that_the_initial_weights_may_forbid_is_refused(tmp_path):
    options = dict(base_model='timm:vit_base.mae')
    with pytest.raises(ValueError, match=r'\(MAE\) are licensed under cc-by-nc-4.0'):
        publish_folder(checkpoint(CONFIG), tmp_path / 'a', 'MIT', **options)
    assert not (tmp_path / 'a').exists()
    publish_folder(checkpoint(CONFIG), tmp_path / 'a', 'MIT', **options, checked=True)
    assert 'The initial weights are those of MAE' in (tmp_path / 'a' / 'README.md').read_text()
    publish_folder(checkpoint(CONFIG), tmp_path / 'b', base_model='timm:vit_base.mae')
    assert ModelCard.load(tmp_path / 'b' / 'README.md').data.license == 'cc-by-nc-4.0'


def result_file(path, weights, value=61.234, **changes):
    content = dict(
        protocol='dense-retrieval',
        metric='mIoU',
        value=value,
        backbone='dino',
        data='voc',
        weights=weights,
        source='https://example.org',
    )
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_results(tmp_path):
    content = checkpoint()
    own = cotap_mm.load(content).weights_hash()
    plain = cotap_mm.load(content, output='backbone').weights_hash()
    files = [
        result_file(tmp_path / 'other.json', 'f00', 55),
        result_file(tmp_path / 'own.json', own),
        result_file(tmp_path / 'plain.json', plain, 58.0),
        result_file(tmp_path / 'knn.json', own, 70, protocol='knn', metric='top1', data='a|b'),
        result_file(tmp_path / 'nothing.json', own, None, protocol='video'),
    ]
    folder = publish_folder(content, tmp_path / 'cotap', results=files)
    text = (folder / 'README.md').read_text()
    assert '| protocol | data | metric | this model | dino | without the filter |' in text
    assert '| dense-retrieval | voc | mIoU | 61.23 | 55.00 | 58.00 |' in text
    assert '| knn | a\\|b | top1 | 70.00 | - | - |' in text
    first, second = ModelCard.load(folder / 'README.md').data.eval_results
    assert (first.metric_type, first.metric_value, first.dataset_name) == ('mIoU', 61.23, 'voc')
    assert second.metric_value == 70
    with pytest.raises(ValueError, match='none of the 1 results is of this checkpoint'):
        publish_folder(content, tmp_path / 'a', results=files[:1])
    for text in ('{', '[1]', '{"value": 3}', json.dumps(dict.fromkeys('ab'))):
        (tmp_path / 'bad.json').write_text(text)
        with pytest.raises(ValueError, match='bad.json is not a result of cotap evaluate'):
            publish_folder(content, tmp_path / 'a', results=[tmp_path / 'bad.json'])


def test_existing_files_are_kept(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'README.md').write_text('mine')
    with pytest.raises(FileExistsError, match='README.md exists; give another name'):
        publish_folder(checkpoint(), tmp_path / 'a')
    assert (tmp_path / 'a' / 'README.md').read_text() == 'mine'
    publish_folder(checkpoint(), tmp_path / 'a', overwrite=True)
    publish_folder(timm_names(), tmp_path / 'a', 'MIT', num_heads=2, overwrite=True)
    assert not (tmp_path / 'a' / 'cotap_filter.safetensors').exists()
    with pytest.raises(ValueError, match="library must be one of hf, timm, got 'keras'"):
        publish_folder(checkpoint(), tmp_path / 'b', library='keras')
