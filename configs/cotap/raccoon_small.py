# Renamed to raccoon_toy.py; this name works for one more release.
_base_ = './raccoon_toy.py'
renamed = ('configs/cotap/raccoon_small.py', 'configs/cotap/raccoon_toy.py')
