#!/bin/bash
# ffmpeg: a test picture is encoded by two threads.
set -e
"${0%/*}/begin.sh"
ffmpeg -v error -nostdin -f lavfi -i testsrc2=size=640x360:rate=25:duration=400 -c:v mpeg2video -threads 2 -qscale:v 3 \
	-flags +bitexact -fflags +bitexact -f framemd5 result
