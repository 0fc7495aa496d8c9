#!/bin/bash
# make -j, with the compiler.
set -e
mkdir parts
for number in $(seq 2000); do
	printf '#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\nint part%d(void) { return (int)sqrt(%d.0); }\n' \
		"$number" "$number" >"parts/$number.c"
done
{
	for number in $(seq 2000); do echo "int part$number(void);"; done
	printf '#include <stdio.h>\nint main(void)\n{\n\tint sum = 0;\n'
	for number in $(seq 2000); do echo "sum += part$number();"; done
	printf '\tprintf("%%d\\n", sum);\n}\n'
} >main.c
# shellcheck disable=SC2016 # they are make's
printf 'program: $(patsubst %%.c,%%.o,$(wildcard parts/*.c) main.c)\n\t$(CC) -o $@ $^ -lm\n' >Makefile
"${0%/*}/begin.sh"
make -j 2 CFLAGS='-O2 -Wno-builtin-declaration-mismatch' >/dev/null
./program >result
