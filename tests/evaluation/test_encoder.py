import pytest
import torch
from mmpretrain.models import VisionTransformer
from torch import nn

from cotap_mm.evaluation import CoTAPEncoder, ViTEncoder, normalize_images
from cotap_mm.evaluation.encoder import eval_mode


class FakeAlgorithm(nn.Module):
    """Mean colour of each patch; remembers how it was asked."""
    patch_size = 8

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)

    def encode(self, images, branch='student', output='filter'):
        self.asked = (tuple(images.shape), branch, output, self.dropout.training)
        patches = nn.functional.avg_pool2d(images, self.patch_size) * self.scale
        return patches.mean(dim=(2, 3)), patches


def tiny_vit(**kwargs):
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    return VisionTransformer(arch=arch, img_size=32, patch_size=8, **kwargs)


def test_passes_branch_and_output_on():
    algorithm = FakeAlgorithm().train()
    found = CoTAPEncoder(algorithm, branch='teacher', output='backbone')(torch.rand(2, 3, 16, 24))
    assert algorithm.asked == ((2, 3, 16, 24), 'teacher', 'backbone', False)
    assert found.cls.shape == (2, 3) and found.patches.shape == (2, 3, 2, 3)
    assert algorithm.training and algorithm.dropout.training
    assert not found.patches.requires_grad


@pytest.mark.parametrize('side, patches', [(3, 1), (11, 1), (12, 2), (16, 2), (20, 3), (28, 4)])
def test_resizes_to_the_nearest_multiple(side, patches):
    encoder = CoTAPEncoder(FakeAlgorithm())
    assert encoder.grid(side, 16) == (patches, 2)
    assert encoder(torch.rand(1, 3, side, 16)).patches.shape[2:] == (patches, 2)


def test_resized_map_covers_the_whole_image():
    images = torch.zeros(1, 3, 20, 16)
    images[:, :, 10:] = 1
    column = CoTAPEncoder(FakeAlgorithm())(images).patches[0, 0, :, 0]  # 3 patches on 20 pixels
    assert column[0] == pytest.approx(0, abs=0.05)
    assert column[1] == pytest.approx(0.5, abs=0.05)
    assert column[2] == pytest.approx(1, abs=0.05)


def test_unknown_words_list_the_valid_ones():
    with pytest.raises(ValueError, match='student, teacher'):
        CoTAPEncoder(FakeAlgorithm(), branch='ema')
    with pytest.raises(ValueError, match='filter, backbone'):
        CoTAPEncoder(FakeAlgorithm(), output='head')


def test_refuses_bytes_and_other_shapes():
    encoder = CoTAPEncoder(FakeAlgorithm())
    with pytest.raises(ValueError, match='uint8'):
        encoder(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r'\(3, 16, 16\)'):
        encoder(torch.zeros(3, 16, 16))


def test_vit_tokens_are_cls_and_map():
    vit = tiny_vit(out_type='raw')
    vit.eval()  # mmpretrain's does not return the module
    images = torch.rand(2, 3, 16, 32)
    found = ViTEncoder(vit)(images)
    tokens = vit(images)[-1]
    assert torch.equal(found.cls, tokens[:, 0])
    assert torch.equal(found.patches[1, :, 1, 2], tokens[1, 1 + 1 * 4 + 2])


def test_vit_without_raw_tokens_is_refused():
    with pytest.raises(ValueError, match="out_type='raw'"):
        ViTEncoder(tiny_vit(out_type='cls_token'))


def test_normalize_images():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    found = normalize_images(pixels)
    assert found[0, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, 0.515 / 0.229])
    assert found[0, 2, 0].tolist() == pytest.approx([-0.406 / 0.225, 0.594 / 0.225])
    with pytest.raises(TypeError, match='uint8'):
        normalize_images(found)


def test_eval_mode_gives_each_part_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    with pytest.raises(KeyError), eval_mode(model):
        assert not model.training and not model[0].training
        raise KeyError
    assert model.training and model[0].training and not model[1].training
