FROM base
ENV A=a EMPTY= FILE=/usr/lib/libfoo.so.1.2
ENV B=${A}b C="${NO:-default value}" D=${EMPTY:-d} E=${EMPTY-e} F=${A:+set} G=${NO+set}
ENV H=${FILE##*/} I=${FILE%%.*} J=${FILE#/*/} K=${FILE%.*} L=${FILE/lib/LIB} M=${FILE//lib/LIB}
ENV N=\$A O='$A' P="\$A" Q=x\ y R=$A$A S="it's" T='say "hi"'
ENV abc=hello
ENV abc=bye def=$abc
ENV ghi=$abc
WORKDIR ${A}/$B
LABEL path="$FILE" multi="line one \
line two"
EXPOSE ${PORT:-8080}
VOLUME ${A:+/data}
USER ${NO:-nobody}:$A
STOPSIGNAL ${SIG:-SIGINT}
