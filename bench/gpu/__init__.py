"""One run on a machine with a GPU: checks, measured ceilings, configurations, times, one table.

python3 -m bench.gpu [--out DIR] [--only STEP,STEP]   on a CUDA device, under eight minutes
python3 -m bench.gpu --dry                            every step at toy size on a CPU, interpreted

It runs from a checkout with torch, triton, numpy, scipy and pytest, nothing installed.
"""
