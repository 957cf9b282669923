FROM base
RUN a \


  b \
  
  c
ENV X=y
