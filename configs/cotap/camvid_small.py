# Renamed to camvid_toy.py; this name works for one more release.
_base_ = './camvid_toy.py'
renamed = ('configs/cotap/camvid_small.py', 'configs/cotap/camvid_toy.py')
