# CamVid's training frames without labels, and its labels for evaluations.
_base_ = './folder.py'
root = '{{$CAMVID:data/camvid}}'  # images/{train,val} and labels/{train,val}
train_dataloader = dict(dataset=dict(patch=dict(root=root + '/images/train')))
labels = dict(
    train=dict(
        type='ImageMaskFolder', images=root + '/images/train', labels=root + '/labels/train'
    ),
    val=dict(type='ImageMaskFolder', images=root + '/images/val', labels=root + '/labels/val'),
)
