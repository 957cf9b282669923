FROM base
LABEL a=b c="d e" "f g"=h
LABEL multi=one\
two
LABEL com.example.a.b-c_d=1
LABEL empty=
