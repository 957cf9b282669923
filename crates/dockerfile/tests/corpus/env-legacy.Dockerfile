FROM base
ENV A b c  d
ENV  B   "quoted value"
LABEL x y z
ENV C=$A D=e\ f
