FROM	base	AS	a
ENV	A=1	B=2
RUN	echo	x
COPY	a	b
