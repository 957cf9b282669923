FROM base
RUN cat 3<<X
in
X
RUN after
