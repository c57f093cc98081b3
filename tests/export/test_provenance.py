"""What a checkpoint states about its training, without paths."""

from __future__ import annotations

import pytest

from cotap_mm.export.known_weights import check_license, derived_from, hub_license, hub_name
from cotap_mm.export.provenance import Provenance, provenance_of, without_paths
from cotap_mm.files.config_text import assignments
from cotap_mm.weights.named.licenses import find_known_weights


@pytest.mark.parametrize(
    'root, name',
    [
        ('/home/jane/photos', 'photos'),
        ('/home/jane/images', 'images'),
        ('data/coco/train2017', 'coco/train2017'),
        ('data/camvid', 'camvid'),
        ('data/images', 'images'),
        ('../jane/images', 'images'),
        ('C:\\Users\\jane\\raccoons', 'raccoons'),
        ('~/raccoons/', 'raccoons'),
    ],
)
def test_names_of_images(root, name):
    config = f'train_dataloader = dict(dataset=dict(patch=dict(root={root!r})))'
    assert provenance_of(dict(meta=dict(cfg=config))).data == [name]


def test_both_branches_and_toy_scenes():
    parts = "patch=dict(type='x.ToyScenes'), cls=dict(root='data/in1k'), cls_neighbors='auto'"
    config = f'train_dataloader = dict(dataset=dict({parts}))'
    assert provenance_of(dict(meta=dict(cfg=config))).data == ['ToyScenes', 'in1k']
    config = "train_dataloader = dict(dataset=dict(type='ADE20KDataset', data_root='data/ade'))"
    assert provenance_of(dict(meta=dict(cfg=config))).data == ['ade']


@pytest.mark.parametrize(
    'init, name',
    [
        ("dict(type='PretrainedViT', checkpoint='https://host/a.pth')", 'https://host/a.pth'),
        ("[dict(type='Constant'), dict(checkpoint='hf:user/repo')]", 'hf:user/repo'),
        ("dict(checkpoint='/home/jane/a.pth')", 'a.pth'),
        ("dict(checkpoint='work_dirs/jane/a.pth')", 'a.pth'),
        ('None', ''),
    ],
)
def test_initial_weights(init, name):
    for model in (f'init_cfg={init}', f'backbone=dict(init_cfg={init})'):
        assert provenance_of(dict(meta=dict(cfg=f'model = dict({model})'))).init == name


@pytest.mark.parametrize(
    'content',
    [
        {},
        dict(meta=3),
        dict(meta=dict(cfg='model = (', iter='x', seed=True), run_state=[]),
        dict(meta=dict(cfg='model = 3\ntrain_dataloader = [1]')),
    ],
)
def test_untrusted_content(content):
    facts = provenance_of(content)
    assert (facts.init, facts.data, facts.iterations) == ('', [], None)


def test_nothing_is_stated():
    assert provenance_of({}) == Provenance()


def test_paths_in_a_config():
    config = dict(a=['/x/y.npz', ('~/z', 'data/w')], url='https://h/p', text='/', n=-0.5)
    assert without_paths(config) == dict(
        a=['y.npz', ('z', 'data/w')], url='https://h/p', text='path', n=-0.5
    )


def test_the_text_of_a_config_is_not_run(tmp_path):
    text = f"a = -3\nb = open({str(tmp_path / 'x')!r}, 'w')\nc = {{'k': [1, (2.5, None)]}}\nd.e = 4"
    assert assignments(text) == dict(a=-3, b=None, c=dict(k=[1, (2.5, None)]))
    assert not list(tmp_path.iterdir())
    assert assignments('a = ' + '-' * 100_000 + '1') == {}


@pytest.mark.parametrize(
    'name, method, repo',
    [
        ('https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/x.pth', 'DINO', None),
        ('dino_deitsmall16_pretrain.pth', 'DINO', 'facebook/dino-vits16'),
        ('timm:vit_base_patch16_224.dino', 'DINO', 'facebook/dino-vitb16'),
        ('dino_vits8', 'DINO', 'facebook/dino-vits8'),
        ('hf:facebook/dino-vits16', 'DINO', 'facebook/dino-vits16'),
        (
            'https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot/vits_16/'
            'checkpoint_teacher.pth',
            'iBOT',
            None,
        ),
        ('mae_pretrain_vit_base.pth', 'MAE', 'facebook/vit-mae-base'),
        ('timm:vit_large_patch16_224.mae', 'MAE', None),
        ('hf:facebook/vit-mae-huge@main', 'MAE', 'facebook/vit-mae-huge'),
        ('cotap_mm://toy_vit.pth', 'the toy ViT of cotap_mm', None),
        ('hf:user/my-dino-model', None, 'user/my-dino-model'),
        ('checkpoint_teacher.pth', None, None),
        ('timm:vit_small_patch14_dinov2.lvd142m', 'DINOv2', None),
        ('timm:vit_large_patch14_reg4_dinov2.lvd142m', 'DINOv2', None),
        ('https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/x.pth', 'DINOv2', None),
        ('hf:facebook/dinov2-with-registers-base', 'DINOv2', None),
        ('hf:facebook/dinov3-vits16-pretrain-lvd1689m', 'DINOv3', None),
        ('dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth', 'DINOv3', None),
        ('timm:vit_base_patch16_dinov3.lvd1689m', 'DINOv3', None),
        ('timm:vit_base_patch16_dinov3_qkvb.eupe_lvd1689m', 'EUPE', None),
    ],
)
def test_known_weights(name, method, repo):
    known = find_known_weights(name)
    assert (known.name if known else None) == method
    if repo or not method:
        assert hub_name(name) == repo


def test_licenses_of_the_hub():
    assert hub_license('Apache-2.0') == dict(license='apache-2.0')
    assert hub_license(' CC-BY-NC-4.0') == dict(license='cc-by-nc-4.0')
    assert hub_license('DINOv3 License!') == dict(license='other', license_name='dinov3-license')


def test_another_license_must_have_been_checked():
    init = 'timm:vit_base_patch16_dinov3.lvd1689m'
    for license in ('Apache-2.0', 'MIT'):
        with pytest.raises(ValueError, match='DINOv3.* dinov3-license .*--i-have-checked'):
            check_license(license, init)
        check_license(license, init, checked=True)
    check_license('DINOv3 License', init)
    check_license('MIT', 'best.pth')  # nothing is known of it
    check_license('Apache-2.0', 'dino_vits8')
    assert derived_from(init)['license'] == 'dinov3-license'
    assert derived_from('best.pth') == dict(weights='best.pth') and derived_from('') == {}


def test_a_resumed_run_and_a_converted_file_state_their_origin():
    """The config of a resumed run has no init, since it loads only its checkpoint."""
    resumed = (
        "started_from = dict(weights='/home/jane/dinov3_vits16.pth')\nmodel = dict(type='CoTAP')"
    )
    assert provenance_of(dict(meta=dict(cfg=resumed))).init == 'dinov3_vits16.pth'
    converted = dict(meta=dict(derived_from=dict(weights='hf:user/net', license='mit')))
    assert provenance_of(converted).init == 'hf:user/net'
