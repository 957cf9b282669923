FROM base
RUN step0 --flag=0 && \
    step1 --flag=1 && \
    step2 --flag=2 && \
    step3 --flag=3 && \
    step4 --flag=4 && \
    step5 --flag=5 && \
    step6 --flag=6 && \
    step7 --flag=7 && \
    step8 --flag=8 && \
    step9 --flag=9 && \
    step10 --flag=10 && \
    step11 --flag=11
