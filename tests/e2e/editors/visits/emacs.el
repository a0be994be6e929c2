;;; emacs.el --- A visit with jsonrpc.el; ../visiting.py tells the story  -*- lexical-binding: t -*-
(require 'cl-lib)
(require 'json)
(require 'jsonrpc)

(defvar events nil "All events, the newest first.")

(defun connect (&optional on-request)
  "Connect to crabd; ON-REQUEST answers what it asks."
  (jsonrpc-process-connection
   :name "crabd"
   :process (lambda ()
              (make-network-process
               :name "crabd" :family 'local :coding 'utf-8-emacs-unix
               :service (concat (getenv "XDG_RUNTIME_DIR") "/crabd/crabd.sock")))
   :notification-dispatcher (lambda (_link method event)
                              (when (eq method 'session/event) (push event events)))
   :request-dispatcher (lambda (_link method params) (funcall on-request method params))))

(defun hang-up (link)
  "Close LINK at once."
  (delete-process (jsonrpc--process link)))

(defun wait-for (condition)
  "Let Emacs read on until CONDITION holds."
  (with-timeout (20 (error "Nothing came"))
    (while (not (funcall condition)) (accept-process-output nil 0.05))))

(defun words (count from)
  "Wait for COUNT words behind the first FROM events."
  (wait-for (lambda ()
              (>= (cl-count "text_delta" (butlast events from)
                            :key (lambda (event) (plist-get event :type)) :test #'equal)
                  count))))

(defun ask (link method params)
  "Ask, and return a function that waits for the answer and the request's id."
  (let (answer)
    (jsonrpc-async-request link method params :timeout 20
                           :success-fn (lambda (result) (setq answer (list result)))
                           :error-fn (lambda (problem) (setq answer (list nil problem))))
    (cons (lambda () (wait-for (lambda () answer)) answer)
          (jsonrpc--next-request-id link))))

(defun call (link method &optional params)
  "Ask, and wait for the result.
Not by `jsonrpc-request', which throws out of the filter that reads: in Emacs 28
what came with the answer, behind it, waits then until more comes."
  (let ((answer (funcall (car (ask link method params)))))
    (when (cadr answer) (error "%s" (cadr answer)))
    (car answer)))

(defun field (name object) (plist-get object name))

(let* ((link (connect))
       (server (field :name (call link :initialize '(:client (:name "emacs") :protocol 1))))
       (session (field :id (call link :session/get_or_create '(:agent "crab" :sender "emacs"))))
       (epoch (field :epoch (call link :session/subscribe (list :session session))))
       (text (field :text (call link :session/send (list :session session :content "echo Grüße, 🦀"))))
       (slow (list :session session :content "slow 600 50"))
       from long cancelled ended abandoned after replay acp prompt prompted)
  ;; No parameters at all go out as null.
  (call link :daemon/ping)
  (setq from (length events)
        long (ask link :session/send slow))
  (words 1 from)
  (setq cancelled (field :stop_reason (call link :session/cancel (list :session session)))
        ended (field :stop_reason (car (funcall (car long)))))

  (setq from (length events)
        long (ask link :session/send slow))
  (words 1 from)
  (jsonrpc-notify link :$/cancelRequest (list :id (cdr long)))
  (setq abandoned (field :code (cadr (funcall (car long)))))
  (call link :session/cancel (list :session session))

  (setq from (length events))
  (call link :session/send (list :session session :content "slow 40 20" :wait :json-false))
  (words 3 from)
  (hang-up link)
  (setq after (field :seq (car events))
        link (connect)
        replay (field :replay
                      (call link :session/subscribe (list :session session :after after :epoch epoch))))
  (wait-for (lambda () (and (> (length events) from) (equal (field :type (car events)) "run_ended"))))
  (hang-up link)

  (setq link (connect (lambda (_method question)
                        (let ((option (cl-find "allow_once" (field :options question)
                                               :key (lambda (each) (field :kind each)) :test #'equal)))
                          (list :outcome (list :outcome "selected" :optionId (field :optionId option)))))))
  (call link :initialize '(:protocolVersion 1 :clientCapabilities nil))
  (setq acp (field :sessionId (call link :session/new (list :cwd (expand-file-name ".") :mcpServers [])))
        prompt [(:type "text" :text "call bash {\"command\": \"touch allowed\"}")]
        prompted (field :stopReason (call link :session/prompt (list :sessionId acp :prompt prompt))))
  (hang-up link)
  (princ
   (json-encode
    (list :server server :session session :text text :cancelled cancelled :ended ended
          :abandoned abandoned :replay replay :prompted prompted
          :events (vconcat (mapcar (lambda (event)
                                     (vector (field :seq event) (field :type event)
                                             (or (field :text event) "")))
                                   (reverse events)))))))
;;; emacs.el ends here
