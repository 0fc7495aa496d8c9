#!/bin/sh
# Say that the work begins, and wait until it may.
touch begun
until [ -e ../go ]; do sleep 0.1; done
